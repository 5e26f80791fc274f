"""The speed comparison on a GPU that is not there: everything but its kernels and its clock."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comparisons import pixels
from comparisons.__main__ import main
from comparisons.counterparts import WithLoss
from comparisons.speed import command, floor, timing, workloads
from comparisons.speed.arms import arm, peers, pytorch
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    AUTOGRAD_GRAPHS,
    EXACT,
    FAST,
    FAST_GRAPHS,
    FUSED,
    FUSED_GRAPHS,
    NO_GRAPH,
)
from comparisons.speed.record import JSON, MARKDOWN
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import TRAINING, Workload
from manualbp.parity.cli import options

CPU = torch.device("cpu")
NAME = "NVIDIA H100 80GB HBM3"
EAGER = (AUTOGRAD, EXACT, FAST, FUSED, NO_GRAPH)
TINY = Workload(TRAINING, (2, 4, 1), 8, "relu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU, whose work the CPU does; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for owner, name, value in (
        (options, "device", torch.device),
        (torch.cuda, "set_device", lambda index: None),
        (torch.cuda, "get_device_name", lambda device: NAME),
        (torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80e9)),
        (timing, "clock_of", lambda device: time.perf_counter),
        (command, "problem", lambda workload, seed, device: arm.problem(workload, seed, CPU)),
        (peers, "available", lambda *_: ({}, [])),
        (pytorch, "captured", lambda module, x, y: (module, 2**21)),
        (floor, "measured_rates", lambda names, device, budget: rates(names)),
        (workloads, "PARTS", {"rows": (TINY,)}),
        (workloads, "ON_GPU", {"gpu": (TINY,), "dtype": (replace(TINY, dtype="tf32"),)}),
        (command, "QUICK", {}),
        (command, "SWEEP_QUICK", Budget(0.001, 2, 2)),
        (pixels, "DPI", 40),
    ):
        monkeypatch.setattr(owner, name, value)
    return tmp_path


def rates(names: Any) -> floor.Rates:
    return floor.Rates(dict.fromkeys(names, 1e12), 1e12)


def test_a_whole_run(gpu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every arm but the compiled ones; the GPU's name on all that the run leaves behind."""
    assert main(["speed", "--device", "cuda", "--quick"]) == 0
    printed = capsys.readouterr().out
    (run,) = (gpu / "runs").iterdir()
    assert run.name.startswith("speed-nvidia-h100-80gb-hbm3-20") and NAME in printed
    page = (run / MARKDOWN).read_text()
    assert page.startswith(f"# Speed on {NAME}\n") and "| date | 20" in page
    assert "autograd, graphs" in page and "over graphs" in page
    assert (run / "gpu.png").exists() and (run / "rows.png").exists()
    written = json.loads((run / JSON).read_text())
    assert written["machine"]["device"] == NAME and "CUDA" in written["machine"]
    assert {c["part"]: c["dtype"] for c in written["cells"]} == {
        "rows": "float32", "gpu": "float32", "dtype": "tf32"}  # fmt: skip
    every = {*EAGER, AUTOGRAD_GRAPHS, FAST_GRAPHS, FUSED_GRAPHS}
    assert all(set(cell["arms"]) == every for cell in written["cells"])
    cell = written["cells"][0]
    assert cell["arms"][FAST_GRAPHS][3] > 2
    assert "- memory of graphs: all that their pool keeps" in page
    assert set(cell["floors"]) == {"products", "bytes"}


def test_a_record_of_a_gpu_is_read_anywhere(gpu: Path) -> None:
    measured = ["--device", "cuda", "--quick", "--output", "first", "--run-name", "first"]
    assert main(["speed", *measured]) == 0
    assert main(["speed", "--read", "first/speed.json", "--output", "again"]) == 0
    assert [run.name for run in (gpu / "runs").glob("speed-nvidia-h100-80gb-hbm3-20*")]
    for name in (JSON, MARKDOWN):
        assert (gpu / "again" / name).read_text() == (gpu / "first" / name).read_text()


def test_an_arm_that_cannot_be_made_is_a_note(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on."""

    def captured(module: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, int]:
        if isinstance(module, WithLoss):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return module, 0

    monkeypatch.setattr(pytorch, "captured", captured)
    assert main(["speed", "--device", "cuda", "--quick", "--only", "gpu", "--output", "out"]) == 0
    written = json.loads((gpu / "out" / JSON).read_text())
    (cell,) = written["cells"]
    assert set(cell["arms"]) == {*EAGER, FUSED_GRAPHS}
    reason = "(RuntimeError: operation not permitted when stream is capturing)"
    for name in (AUTOGRAD_GRAPHS, FAST_GRAPHS):
        note = f"left out of gpu: {name} of 2-4-1, batch 8, float32 {reason}"
        assert note in written["notes"] and note in (gpu / "out" / MARKDOWN).read_text()


@pytest.mark.parametrize("when", ["data", "autograd", "timing"])
def test_a_cell_that_memory_does_not_suffice_for_is_a_note(
    when: str, gpu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    owner, name = {
        "data": (command, "problem"), "autograd": (nn.functional, "mse_loss"),
        "timing": (timing, "time_in_turns"),
    }[when]  # fmt: skip
    monkeypatch.setattr(owner, name, exhausted)
    assert main(["speed", "--device", "cuda", "--quick", "--only", "gpu"]) == 0
    printed = capsys.readouterr().out
    left_out = "autograd" if when == "autograd" else "all"
    assert (
        f"left out of gpu: {left_out} of 2-4-1, batch 8, float32 (OutOfMemoryError: CUDA" in printed
    )
    assert not (gpu / "runs").exists()


def test_every_arm_of_a_row_has_its_tf32(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is made and while it runs; not in the rows before and after."""
    flags: dict[str, set[bool]] = {}
    original = timing.time_in_turns

    def seen(steps: Any, *rest: Any) -> Any:
        flag = torch.backends.cuda.matmul.allow_tf32
        flags.setdefault("timed", set()).add(flag)
        return original(steps, *rest)

    def captured(module: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, int]:
        flags.setdefault("made", set()).add(torch.backends.cuda.matmul.allow_tf32)
        return module, 0

    monkeypatch.setattr(timing, "time_in_turns", seen)
    monkeypatch.setattr(pytorch, "captured", captured)
    before = torch.backends.cuda.matmul.allow_tf32
    for part, expected in (("dtype", True), ("gpu", False)):
        flags.clear()
        assert (
            main(["speed", "--device", "cuda", "--quick", "--only", part, "--run-name", part]) == 0
        )
        assert flags == {"made": {expected}, "timed": {expected}}
        assert torch.backends.cuda.matmul.allow_tf32 is before


def test_the_second_gpu_is_the_one_that_is_used(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, streams and graphs are those of the current device."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for device in ("cuda:1", "cuda", "cpu"):
        name = ["--run-name", device.replace(":", "")]
        assert main(["speed", "--device", device, "--quick", "--only", "rows", *name]) == 0
    assert current == [1, 0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_whole_run_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny rows, every arm that does not compile; no arm is left out."""
    monkeypatch.setattr(workloads, "PARTS", {"rows": (TINY,)})
    monkeypatch.setattr(workloads, "ON_GPU", {"dtype": (replace(TINY, dtype="tf32"),)})
    arguments = ["--device", "cuda", "--quick", "--log-dir", str(tmp_path), "--run-name", "mine"]
    assert main(["speed", *arguments]) == 0
    written = json.loads((tmp_path / "mine" / JSON).read_text())
    assert not [note for note in written["notes"] if note.startswith("left out")]
    assert all(FUSED_GRAPHS in cell["arms"] for cell in written["cells"])
    assert min(min(cell["floors"].values()) for cell in written["cells"]) > 0
