"""save_repro and replay: the same comparison, with the same bits, in another process."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients, repro
from manualbp.parity.cli import main
from manualbp.parity.cli.command import replay
from manualbp.parity.record import GradientReport
from manualbp.parity.repro import save_repro
from tests.parity.samples import AFFINE

ARMS = """

class Mine(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x):
        return Mine.function.apply(x, self.weight, self.bias)

    function = Mean


def theirs():
    return nn.Linear(4, 3)


def scaled(o, y):
    return (o - y).square().sum()
"""
RUN = """
import json, sys
from manualbp.parity.cli.command import replay
report = replay(sys.argv[1])
print(json.dumps([report.verdict, [repr(t) for t in report.tensors]]))
"""
SETTINGS: dict[str, Any] = {"loss": nn.MSELoss(), "seeds": (3, 4), "power": False}
X, Y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
SETTINGS["target"] = Y[:, :3].contiguous()


def numbers(report: GradientReport) -> list[Any]:
    return [report.verdict, [repr(t) for t in report.tensors]]


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of two arms that can be imported, for this test alone."""
    (tmp_path / "repro_arms.py").write_text(AFFINE + ARMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import repro_arms  # type: ignore[import-not-found]

    yield repro_arms
    del sys.modules["repro_arms"]


def pair(arms: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    mine, theirs = arms.Mine(), arms.theirs()
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


@pytest.mark.slow
@pytest.mark.parametrize("specs", [None, ("repro_arms:Mine", "repro_arms:theirs")])
def test_another_process_finds_the_same_bits(
    specs: tuple[str, str] | None, tmp_path: Path, arms: Any
) -> None:
    mine, theirs = pair(arms)
    settings = {**SETTINGS, "loss": arms.scaled}
    before = compare_gradients(mine, theirs, X, **settings)
    assert before.verdict == "DIFFER"
    file = tmp_path / "a.repro"
    save_repro(file, mine, theirs, X, settings, specs)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    threads = str(torch.get_num_threads())
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(file)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == numbers(before)
    assert [p.name for p in tmp_path.iterdir() if "a.repro" in p.name] == ["a.repro"]


def test_modes_dtypes_and_frozen_parameters_come_back(tmp_path: Path, arms: Any) -> None:
    mine, theirs = (arm.double().eval() for arm in pair(arms))
    theirs.weight.requires_grad_(False)
    mine.weight.requires_grad_(False)
    settings = {**SETTINGS, "target": SETTINGS["target"].double()}
    save_repro(tmp_path / "a", mine, theirs, X.double(), settings, ("repro_arms:Mine",) * 2)
    again = replay(tmp_path / "a")
    assert [t.dtype for t in again.tensors] == [torch.float64] * len(again.tensors)
    assert "weight.grad" not in [t.name for t in again.tensors]


def test_nothing_that_is_saved_is_changed(tmp_path: Path) -> None:
    reference = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    candidate, state = copy.deepcopy(reference), copy.deepcopy(reference.state_dict())
    save_repro(tmp_path / "a", candidate, reference, X, SETTINGS)
    assert numbers(replay(tmp_path / "a")) == numbers(
        compare_gradients(candidate, reference, X, **SETTINGS)
    )
    for arm in (candidate, reference):
        assert all(torch.equal(v, state[n]) for n, v in arm.state_dict().items())


def test_what_cannot_be_imported_is_refused_and_no_file_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Local(nn.Linear):
        pass

    file, linear = tmp_path / "a", nn.Linear(4, 3)
    file.write_text("before")
    with pytest.raises(ValueError, match=r"expected candidate to be importable, got .*Local.*move"):
        save_repro(file, Local(4, 3), linear, X, SETTINGS)
    with pytest.raises(ValueError, match=r"expected reference to be importable, got .*<lambda>"):
        save_repro(file, linear, lambda x: x, X, SETTINGS)
    with pytest.raises(ValueError, match=r"expected loss to be importable, got .*<lambda>"):
        save_repro(file, linear, linear, X, {"loss": lambda o: o.sum()})
    with pytest.raises(ValueError, match="expected inputs to be importable"):
        save_repro(file, linear, linear, lambda seed: X, {})
    command = f"nowhere_at_all:a nowhere_at_all:b --inputs torch:pi --repro {file}"
    assert main(command.split()) == 2
    assert "found no module nowhere_at_all" in capsys.readouterr().err
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_function_of_the_running_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def square(x: Tensor) -> Tensor:
        return x * x

    monkeypatch.setattr(square, "__module__", "__main__")
    with pytest.raises(ValueError, match="of the program that is running; move it"):
        save_repro(tmp_path / "a", square, torch.square, X, {})


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, linear = tmp_path / "a", nn.Linear(4, 3)
    save_repro(file, linear, linear, X, SETTINGS)
    before, save = file.read_bytes(), torch.save

    def full(whole: Any, target: Any) -> None:
        if "format" in whole if isinstance(whole, dict) else False:
            target.write(b"half")
            raise OSError("no space left on device")
        save(whole, target)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        save_repro(file, linear, linear, X, SETTINGS)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_other_versions_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, linear = tmp_path / "a", nn.Linear(4, 3)
    save_repro(file, copy.deepcopy(linear), linear, X, SETTINGS)
    monkeypatch.setattr(repro, "versions", lambda: {"torch": "9.9"})
    with pytest.warns(UserWarning, match=r"written with .*torch .*, now 9\.9.*numbers may differ"):
        assert replay(file).bit_identical


def test_what_is_no_repro_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="expected a repro file"):
        replay(file)
    torch.save({"format": "manualbp repro 0"}, file)
    with pytest.raises(ValueError, match="got 'manualbp repro 0'; write it anew"):
        replay(file)
    with pytest.raises(FileNotFoundError):
        replay(tmp_path / "nowhere")


def test_arms_that_are_gone_are_named(tmp_path: Path, arms: Any) -> None:
    file = tmp_path / "a"
    save_repro(file, *pair(arms), X, SETTINGS)
    arms.Gone = arms.__dict__.pop("Mine")
    with pytest.raises(ValueError, match=r"needs to be importable, got AttributeError.*Mine"):
        replay(file)


def test_a_comparison_writes_its_own_file(tmp_path: Path, arms: Any) -> None:
    """Bit-exact: the file that repro= names gives the report that the call gave."""
    mine, theirs = pair(arms)
    file = tmp_path / "mine.repro"
    report = compare_gradients(mine, theirs, X, seeds=(2,), also=("second_order",), repro=file)
    assert report.repro == str(file) and numbers(replay(file)) == numbers(report)
    with torch.no_grad():
        mine.weight[0, 0] += 1
    other = tmp_path / "other.repro"
    with pytest.raises(ValueError, match="expected both modules to hold the same parameters"):
        compare_gradients(mine, theirs, X, repro=other)
    assert not other.exists()


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a repro file, found no"):
        replay(tmp_path / "none.repro")
