"""Checkpoints that are damaged, cut off, of another version or hold something else."""

from __future__ import annotations

import copy
import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from manualbp.parity.trajectories.checkpoint import FORMAT, Checkpoint
from tests.parity.training_pairs import Wide, other
from tests.parity.trajectories.test_checkpoint import compare, reference, stop_in_the_third


def stopped(file: Path) -> bytes:
    """The file of a comparison that was stopped in its third training."""
    with pytest.raises(RuntimeError, match="stop"):
        compare(file, stop_in_the_third(RuntimeError))
    return file.read_bytes()


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """Wherever it is: 200 places, and the first and last ones. The file stays as it is."""
    file, draw = tmp_path / "run.ckpt", random.Random(0)
    good = stopped(file)
    bits = [0, 8 * len(FORMAT), 8 * (len(FORMAT) + 64), 8 * (len(FORMAT) + 65), 8 * len(good) - 1]
    for bit in [*bits, *(draw.randrange(8 * len(good)) for _ in range(200))]:
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="expected a checkpoint of compare_training in"):
            refused(file, bytes(damaged))
    for cut in (good[:-1], good[: len(good) // 2], good + b"x"):
        with pytest.raises(ValueError, match="its checksum differs: it is damaged or cut off"):
            refused(file, cut)


def refused(file: Path, content: bytes) -> None:
    """Reads a file without running anything, and holds that it is still there."""
    file.write_bytes(content)
    checkpoint = Checkpoint(file, {}, 1, 60.0)
    try:
        checkpoint.read(None)  # type: ignore[arg-type]
    finally:
        assert file.read_bytes() == content


def sealed(content: Any) -> bytes:
    """A file of the right form, whatever it holds."""
    body = io.BytesIO()
    torch.save(content, body)
    digest = hashlib.sha256(body.getvalue()).hexdigest().encode()
    return FORMAT + digest + b"\n" + body.getvalue()


def opened(whole: bytes) -> Any:
    return torch.load(io.BytesIO(whole[len(FORMAT) + 65 :]), weights_only=False)


WRONG: dict[str, Callable[[Any], Any]] = {
    "no dict": lambda c: [1],
    "nothing in it": lambda c: {},
    "a class": lambda c: {**c, "report": nn.Linear(1, 1)},
    "a path": lambda c: {**c, "report": Path("x")},
    "no report": lambda c: {**c, "report": {"runs": []}},
    "fingerprint": lambda c: {**c, "fingerprint": 3},
    "no state": lambda c: {**c, "training": {}},
    "a list": lambda c: {**c, "training": [1]},
    "half a state": lambda c: {**c, "training": {**c["training"], "envelope": 3}},
    "fewer twins": lambda c: {**c, "training": {**c["training"], "twins": []}},
    "other shapes": lambda c: {**c, "training": {**c["training"], "reference": {
        **c["training"]["reference"], "parameters": {"0.weight": torch.ones(3, 5)}}}},
    "runs": lambda c: (setattr(c["report"], "runs", 3), c)[1],
    "a run": lambda c: (c["report"].runs.__setitem__(0, c["report"].runs[1]), c)[1],
    "curves": lambda c: (setattr(c["report"].runs[0], "curves", {"loss": 3}), c)[1],
    "steps": lambda c: (setattr(c["report"].runs[-1], "steps", 99), c)[1],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_contents_in_the_right_form_are_refused(
    change: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Never with PyTorch's advice to read it as a program."""
    file = tmp_path / "run.ckpt"
    content = sealed(change(opened(stopped(file))))
    file.write_bytes(content)
    candidate = other(reference(), Wide)
    before = copy.deepcopy(candidate.state_dict())
    with pytest.raises(ValueError, match="expected a checkpoint of compare_training") as raised:
        compare(file, candidate=candidate)
    assert "delete it to start anew" in str(raised.value)
    assert "weights_only" not in str(raised.value) and file.read_bytes() == content
    assert all(torch.equal(v, before[name]) for name, v in candidate.state_dict().items())


def test_a_file_of_before_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 2}, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="does not begin as one of this version does"):
        compare(tmp_path / "run.ckpt")
