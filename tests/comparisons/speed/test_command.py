"""The speed comparison as a command: what it prints, what it leaves behind, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from comparisons import pixels
from comparisons.__main__ import main
from comparisons.speed import command, floor, workloads
from comparisons.speed.arms import by_jax
from comparisons.speed.record import FIGURES, JSON, MARKDOWN
from comparisons.speed.results import Result
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import LAPLACIAN, TRAINING, Workload

PARTS = {
    "rows": (Workload(TRAINING, (2, 4, 1), 8, "relu"),),
    "second-order": (Workload(LAPLACIAN, (2, 3, 1), 8, "silu"),),
    "batch": tuple(
        Workload(TRAINING, (2, w, 1), n, "relu") for w in (3, 5) for n in (8, 9, 32, 33)
    ),
    "depth": (
        Workload(TRAINING, (2, 3, 1), 8, "relu"),
        Workload(TRAINING, (2, 3, 3, 1), 8, "relu"),
    ),
    "width": (Workload(TRAINING, (2, 7, 7, 1), 8, "relu"),),
    "dtype": (Workload(TRAINING, (2, 4, 1), 8, "relu", "bfloat16"),),
}
PICTURES = ["batch.png", "depth.png", "memory.png", "rows.png", "width.png"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A grid of milliseconds, in an empty folder; no JAX, whose compiler takes the seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workloads, "PARTS", PARTS)
    monkeypatch.setattr(command, "QUICK", {})
    monkeypatch.setattr(command, "SWEEP_QUICK", Budget(0.001, 2, 2))
    monkeypatch.setattr(floor, "SHAPES", ((16, 16, 16),))
    monkeypatch.setattr(floor, "COPIED", 2**20)
    monkeypatch.setattr(pixels, "DPI", 40)
    monkeypatch.setattr(by_jax, "prepare", without_jax)
    return tmp_path


def without_jax(device: Any) -> Any:
    raise ModuleNotFoundError("no jax", name="jax")


def blank(path: Path) -> bool:
    """Whether a figure shows nothing."""
    return bool((imread(path) == imread(path)[0, 0]).all())


def test_a_whole_run(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--quick", "--run-name", "mine"]) == 0
    printed = capsys.readouterr().out
    for words in ("2-4-1", "Batch sweep", "Depth sweep", "Width sweep", "bfloat16", "FusedLoss"):
        assert words in printed
    assert "no JAX: install it with: pip install -r requirements/peers.txt" in printed
    assert "no torch.compile with --quick" in printed
    assert "Training: geometric means over 1 rows, worst of" in printed
    run = tiny / "runs" / "mine"
    assert sorted(p.name for p in run.glob("*.png")) == PICTURES
    assert not any(blank(run / name) for name in PICTURES)
    page = (run / MARKDOWN).read_text()
    assert "| training | 2-4-1 | 8 | relu |" in page and "| processor |" in page
    written = json.loads((run / JSON).read_text())
    assert [(c["part"], c["batch"]) for c in written["cells"] if c["part"] == "batch"] == [
        ("batch", 8), ("batch", 32)] * 2  # fmt: skip
    assert written["machine"]["threads"] and written["GFLOP_per_second"]["float32"] > 0
    assert written["GB_per_second"]["copy"] > 0 and "| copy, read and written |" in page


def test_rounds_are_as_many_as_asked_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, original = [], command.measured_arms

    def counted(times: Any, peaks: Any) -> Any:
        rounds.extend(map(len, times.values()))
        return original(times, peaks)

    monkeypatch.setattr(command, "measured_arms", counted)
    assert main(["speed", "--quick", "--run-name", "mine", "--only", "width", "--rounds", "4"]) == 0
    (cell,) = json.loads((tiny / "runs" / "mine" / JSON).read_text())["cells"]
    assert set(rounds) == {4} and len(rounds) == len(cell["arms"])


def test_event_files(tiny: Path) -> None:
    """Curves stand at the number swept over, float32 as TensorBoard's server wants them."""
    assert main(["speed", "--quick", "--run-name", "mine", "--only", "batch"]) == 0
    run = tiny / "runs" / "mine"
    events = EventAccumulator(str(run / "exact"), size_guidance={"tensors": 0}).Reload()
    curve = events.Tensors("milliseconds/batch_2-3-1")
    written = json.loads((run / JSON).read_text())["cells"][:2]
    medians = {cell["batch"]: cell["arms"]["exact"][0] for cell in written}
    assert {e.step: e.tensor_proto.float_val[0] for e in curve} == pytest.approx(medians, rel=1e-6)
    pictures = EventAccumulator(str(run / FIGURES)).Reload()
    assert set(pictures.Tags()["images"]) == {"1_figures/batch", "1_figures/memory"}


def test_a_blank_figure_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "blank.png").write_bytes(pixels.png(pixels.of(Figure((1, 1)))))
    assert blank(tmp_path / "blank.png")


def test_an_earlier_run_is_read(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--quick", "--run-name", "one", "--output", "docs/speed"]) == 0
    first = capsys.readouterr().out
    assert main(["speed", "--read", "docs/speed/speed.json", "--run-name", "two"]) == 0
    assert capsys.readouterr().out.split("Written")[0] == first.split("Written")[0]
    again, before = (tiny / folder / JSON for folder in ("runs/two", "docs/speed"))
    assert again.read_text() == before.read_text()
    assert not (tiny / "runs/one" / JSON).exists()


def test_ctrl_c_keeps_what_was_measured(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, done = command.measured, []

    def interrupted(*args: Any) -> Result:
        if done:
            raise KeyboardInterrupt
        done.append(measured(*args))
        return done[0]

    monkeypatch.setattr(command, "measured", interrupted)
    assert main(["speed", "--quick", "--run-name", "mine"]) == 130
    written = json.loads((tiny / "runs" / "mine" / JSON).read_text())
    assert len(written["cells"]) == 1 and "interrupted after 1 of 9 cells" in written["notes"]


def test_ctrl_c_before_anything_leaves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(floor, "measured_rates", interrupted)
    assert main(["speed"]) == 130
    assert not list(tiny.iterdir())


def test_what_is_too_large_is_left_out(tiny: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    slow = floor.Rates({"float32": 1.0}, 1e9)  # an operation a second
    monkeypatch.setattr(floor, "measured_rates", lambda *_: slow)
    assert main(["speed", "--quick", "--only", "width"]) == 0
    assert (
        "left out of width: 2-7-7-1, batch 8, float32: a step would take" in capsys.readouterr().out
    )
    assert not list(tiny.iterdir())


REFUSED = [
    ("--step laplace", "did you mean Laplacian?"),
    ("--only bach", "did you mean batch?"),
    (
        "--only rows --step Laplacian",
        "expected a part that has the step Laplacian, got --only rows",
    ),
    ("--device cuda:99", "use --device cpu"),
    ("--only gpu", "expected --device cuda for --only gpu, got cpu; leave out one of the two"),
    ("--run-name taken", "expected a new run name, got 'taken'"),
    ("--output runs", "expected a new folder, got runs, which is there; choose another --output"),
    ("--output /dev/null/speed", "choose another --output"),
    ("--read none.json", "expected the speed.json of an earlier run, got 'none.json'"),
    ("--read half.json", "expected the speed.json of an earlier run, got 'half.json'"),
    ("--rounds 0", "a whole number of at least 1"),
]


@pytest.mark.parametrize(("option", "message"), REFUSED, ids=[option for option, _ in REFUSED])
def test_bad_usage(
    option: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Before anything is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("measured"))
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "half.json").write_text('{"cells": [{"part": "rows"}]}')
    assert main(["speed", *option.split()]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and message in line
    assert not list((tmp_path / "runs" / "taken").iterdir())
