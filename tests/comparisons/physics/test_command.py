"""The physics comparison: what it prints and writes, its verdict, and its errors."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import manualbp
from comparisons import pixels
from comparisons.cli import main
from comparisons.physics import tables
from comparisons.physics.loop import Trained
from comparisons.physics.problems import PROBLEMS
from comparisons.physics.ways import AUTOGRAD, MANUAL

POISSON = ["physics", "--problem", "poisson", "--steps", "30"]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "DPI", 20)


@pytest.fixture(autouse=True)
def without_deepxde(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed; with it: tests/clients."""
    monkeypatch.setitem(sys.modules, "deepxde", None)


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--log-dir", str(tmp_path), "--run-name", "mine", "--output", str(tmp_path / "out")]
    assert main([*POISSON, "--problem", "heat", *options]) == 0
    printed = capsys.readouterr().out
    assert "both arms trained to the same error on 2 problems" in printed
    assert "the errors at the end are judged" in printed and "DIFFER" not in printed
    assert "left out" not in printed and f"Written: {tmp_path / 'out'}" in printed

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"physics.md", "poisson.png", "heat.png"}
    page = (tmp_path / "out" / "physics.md").read_text()
    assert "| heat | 30 |" in page
    assert "comparisons physics --problem poisson --problem heat --steps 30 --seed 0`" in page

    everything = {"scalars": 0, "tensors": 0, "images": 0}
    arms = [EventAccumulator(str(tmp_path / "mine" / arm), everything).Reload()
            for arm in (AUTOGRAD, MANUAL)]  # fmt: skip
    tags = arms[0].Tags()["tensors"]
    assert set(tags) == {f"{what}/{name}" for what in ("1_error", "2_loss")
                         for name in ("poisson", "heat")}  # fmt: skip
    for tag in tags:
        steps = [[event.step for event in arm.Tensors(tag)] for arm in arms]
        assert steps[0] == steps[1] and steps[0][-1] == 30
    both = EventAccumulator(str(tmp_path / "mine" / "parity"), everything).Reload()
    assert both.Tags()["images"] == ["solutions/poisson", "solutions/heat"]


def test_a_wrong_derivative_turns_it_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = manualbp.derivatives

    def wrong(*args: Any, **options: Any) -> Any:
        u, du, laplacian = original(*args, **options)
        return u, du, 1.001 * laplacian

    monkeypatch.setattr(manualbp, "derivatives", wrong)
    assert main([*POISSON, "--log-dir", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "poisson DIFFERS: gradients of the first step" in printed and "same error" not in printed


def result(theirs: list[float], ours: list[float], gradients_apart: float = 1e-7) -> Trained:
    errors, seconds = {AUTOGRAD: theirs, MANUAL: ours}, {AUTOGRAD: [3e-3] * 3, MANUAL: [1e-3] * 3}
    return Trained(PROBLEMS["heat"], 9, gradients_apart, 0.5, errors, seconds)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (result([1.0, 0.2, 0.01], [1.0, 0.2, 0.019]), ""),
        (result([1.0, 0.2, 0.01], [1.0, 0.2, 0.021]), "errors 2.1 times apart"),
        (result([1.0, 0.2, 0.021], [1.0, 0.2, 0.01]), "errors 2.1 times apart"),
        (result([1.0, 2.0], [1.0, 2.0]), "the error of autograd did not fall: 1 to 2"),
        (result([1.0, 0.1], [1.0, math.nan]), "the error of manual did not fall: 1 to nan"),
        (result([1.0, 0.1], [1.0, 0.1], 2e-5), "gradients of the first step 2.0e-05 apart"),
        (result([1.0, 0.1], [1.0, 0.1], math.nan), "gradients of the first step nan apart"),
    ],
)
def test_verdict(found: Trained, fault: str) -> None:
    assert found.fault == fault
    (line, *_) = tables.verdict([found])
    assert line.startswith(f"heat DIFFERS: {fault}" if fault else "both arms trained to the same")
    (row,) = tables.errors([found], "").rows
    assert row[-1] == ("DIFFER" if fault else "agree")


def test_tables() -> None:
    found = result([1.0, 0.01], [1.0, 0.02])
    (row,) = tables.errors([found], "").rows
    assert row == ["heat", "9", "1.00e-02", "2.00e-02", "2.00", "1.0e-07", "5.0e-01", "agree"]
    (row,) = tables.times([found]).rows
    assert row == ["heat", "3.000", "1.000", "3.00"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--problem poison", "did you mean poisson"),
        ("--problem deepxde", "deepxde: left out, it needs DeepXDE; install it with: pip install"),
        ("--steps 0", "a whole number of at least 1"),
        ("--seed -1", "at least 0"),
        ("--log-dir /dev/null/runs", "a folder that can be written"),
        ("--output taken", "expected a new folder, got taken"),
        ("--log-dir . --run-name taken", "expected a new run name, got 'taken'"),
    ],
)
def test_bad_usage(
    options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert main(["physics", *options.split()]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and message in line and printed.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_ctrl_c_keeps_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    heat = PROBLEMS["heat"]
    monkeypatch.setitem(PROBLEMS, "heat", type(heat)(**{**vars(heat), "exact": interrupted}))
    assert main([*POISSON, "--problem", "heat", "--log-dir", str(tmp_path)]) == 130
    printed = capsys.readouterr().out
    assert "interrupted after 1 of 2 problems" in printed and "| poisson" not in printed
    (run,) = tmp_path.iterdir()
    assert "| poisson | 30 |" in (run / "physics.md").read_text()


@pytest.mark.slow
def test_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All five: what was seen is 0.27 at most, for Burgers' equation."""
    assert main(["physics", "--quick", "--log-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "deepxde: left out" in printed and "the same error on 5 problems" in printed
    rows = [line.split() for line in printed.splitlines() if line.endswith("agree   ")]
    errors = {row[0]: [float(number) for number in row[2:4]] for row in rows}
    assert set(errors) == set(PROBLEMS) and max(map(max, errors.values())) < 0.5
