"""A training that is stopped and goes on ends as if it had not been: every number of its report."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from manualbp.parity import TrainingReport, compare_training
from manualbp.parity.reports.json_format import to_json
from manualbp.parity.training_record import Trajectory
from manualbp.parity.trajectories.checkpoint import Checkpoint
from tests.parity.training_pairs import Wide, batches, other

ROOT = Path(__file__).parents[3]


def reference() -> nn.Sequential:
    """With random numbers and a buffer, which a checkpoint must bring back as well."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))


def compare(
    checkpoint: Path | None, on_step: Callable[[Trajectory], None] | None = None, **changes: Any
) -> TrainingReport:
    """Four short trainings, written down every three steps."""
    theirs = reference()
    options: dict[str, Any] = {
        "data": batches(), "optimizers": ("sgd", "adam"), "steps": 8, "seeds": (0, 3),
        "dtypes": (torch.float32,), "twins": 3,
    }  # fmt: skip
    options |= changes
    return compare_training(
        options.pop("candidate", other(theirs, Wide)), theirs, options.pop("data"), nn.MSELoss(),
        checkpoint=checkpoint, on_step=on_step, **{"checkpoint_every": 3, **options},
    )  # fmt: skip


def stop_in_the_third(error: type[BaseException]) -> Callable[[Trajectory], None]:
    """Stops in the third training, after its 5th step: two are lost since the last writing."""

    def on_step(run: Trajectory) -> None:
        if (run.optimizer, run.seed, run.steps) == ("adam", 0, 5):
            raise error("stop")

    return on_step


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return to_json(compare(None))


def test_an_exception_loses_nothing_that_was_written(tmp_path: Path, undisturbed: str) -> None:
    """Bit-exact: curves, envelopes, histograms, power, findings."""
    file = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="stop"):
        compare(file, stop_in_the_third(RuntimeError))
    seen: list[tuple[str, int, int]] = []
    report = compare(file, lambda run: seen.append((run.optimizer, run.seed, run.steps)))
    assert seen[0] == ("adam", 0, 4) and len(seen) == 5 + 8  # not from the start
    assert to_json(report) == undisturbed


def test_ctrl_c_gives_what_was_found_and_goes_on(tmp_path: Path, undisturbed: str) -> None:
    file = tmp_path / "run.ckpt"
    report = compare(file, stop_in_the_third(KeyboardInterrupt))
    assert report.interrupted and [run.steps for run in report.runs] == [8, 8, 5]
    assert report.runs[2].curves["loss/reference"].last[0] == 5 and report.runs[2].histograms
    assert not report.agrees
    assert to_json(compare(file)) == undisturbed
    assert to_json(compare(file)) == undisturbed  # once more: it is all there


def test_time_decides_when_it_is_written_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    written: list[int] = []
    write = Checkpoint.write

    def counted(self: Checkpoint, report: TrainingReport, training: Any) -> None:
        written.append(report.runs[-1].steps if training else 0)
        write(self, report, training)

    monkeypatch.setattr(Checkpoint, "write", counted)
    once = {"checkpoint_every": 100, "seeds": (0,), "optimizers": ("sgd",)}
    compare(tmp_path / "a", **once)
    assert written == [0]  # its 8 steps take less than a minute
    written.clear()
    compare(tmp_path / "b", **once, checkpoint_seconds=0)
    assert written == [*range(1, 8), 0]
    assert to_json(compare(tmp_path / "c", checkpoint_seconds=0)) == undisturbed


def moved() -> nn.Module:
    candidate = other(reference(), Wide)
    candidate.register_buffer("extra", torch.ones(1))
    return candidate


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 9}, "steps"),
        ({"seeds": (0, 4)}, "seeds"),
        ({"optimizers": ("sgd",)}, "optimizer adam"),
        ({"optimizers": {"sgd": lambda p: torch.optim.SGD(p, 0.5)}}, "optimizer sgd"),
        ({"twins": 4}, "twins"),
        ({"dtypes": (torch.float64,)}, "dtypes"),
        ({"exact": True}, "rule"),
        ({"teacher_forced": False}, "teacher forced"),
        ({"data": batches(rows=6)}, "first batch, seed 0"),
        ({"candidate": moved()}, "the candidate's parameters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_call_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="stop"):
        compare(file, stop_in_the_third(RuntimeError))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=f"got another {named}: .* delete the file"):
        compare(file, **changes)
    assert file.read_bytes() == before


def test_what_is_no_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "run.ckpt"
    for content in (b"", b"no checkpoint", b"PK\x03\x04broken"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"expected a checkpoint of compare_training in"):
            compare(file)
        assert file.read_bytes() == content


def test_a_folder_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder to write the checkpoint to"):
        compare(tmp_path / "none" / "run.ckpt", stop_in_the_third(RuntimeError))


def test_a_failure_while_writing_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    file = tmp_path / "run.ckpt"
    sync, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"cannot write {file}: No space left on device"):
        compare(file)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]
    assert to_json(compare(file)) == undisturbed


def test_the_modules_are_as_before_when_it_stops(tmp_path: Path) -> None:
    """Bit-exact, gradients and random state included."""
    candidate, state = other(reference(), Wide), torch.get_rng_state()
    before = copy.deepcopy(candidate.state_dict())
    with pytest.raises(RuntimeError, match="stop"):
        compare(tmp_path / "run.ckpt", stop_in_the_third(RuntimeError), candidate=candidate)
    assert all(torch.equal(v, before[n]) for n, v in candidate.state_dict().items())
    assert all(p.grad is None for p in candidate.parameters())
    assert torch.equal(torch.get_rng_state(), state)
