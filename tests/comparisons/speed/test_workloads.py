"""What is measured, on a CPU and on a GPU, and what is too large for it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from comparisons.speed import workloads
from comparisons.speed.arms.costs import COSTS
from comparisons.speed.workloads import LAPLACIAN, ROWS, TRAINING, Workload

CPU = torch.device("cpu")


def test_the_workloads() -> None:
    """Every row has a known step and stands once in its part; quick is a part of it."""
    for rows in workloads.PARTS.values():
        assert {row.step for row in rows} <= set(COSTS) and len(set(rows)) == len(rows)
    assert set(workloads.selected(quick=True)) < set(workloads.selected())
    assert workloads.BATCHES[-1] == 262144 and len(workloads.BATCH) == 32
    assert [workloads.coordinate("width", row) for row in workloads.WIDTH] == [
        2**n for n in range(3, 13)
    ]
    assert [workloads.coordinate("depth", row) for row in workloads.DEPTH] == [1, 2, 4, 8, 16, 32]
    assert {part for part, _ in workloads.selected(["dtype", "rows"])} == {"dtype", "rows"}
    assert all(row.step == LAPLACIAN for _, row in workloads.selected(step=LAPLACIAN))


def test_the_workloads_of_a_gpu() -> None:
    """The CPU's rows are among them; TF32 of every row, half precision, and what a GPU is for."""
    every = workloads.selected(gpu=True)
    assert set(workloads.selected()) < set(every)
    dtypes = {row.dtype for part, row in every if part == "dtype"}
    assert dtypes == {"bfloat16", "float16", "float64", "tf32"}
    of_tf32 = [replace(row, dtype="float32") for _, row in every if row.dtype == "tf32"]
    assert of_tf32 == list(ROWS)
    found = [(row.net, row.batch) for _, row in workloads.selected(["gpu"], gpu=True)]
    assert found == [
        ("64-128x3-1", 65536), ("64-128x3-1", 262144), ("64-128x3-1", 1048576),
        ("784-256-128-10", 128), ("64-64-64-1", 256), ("32-32-32-1", 32),
    ]  # fmt: skip


def test_the_rows_are_these_nine() -> None:
    """The table of docs/speed.md and every comparison with an earlier figure are of them."""
    assert [(row.net, row.batch, row.activation, row.dtype) for row in ROWS] == [
        ("64-128x3-1", 65536, "relu", "float32"),
        ("2-128x4-1", 16384, "tanh", "float32"),
        ("32-64x4-3", 131072, "relu", "float32"),
        ("128-512-512-10", 8192, "relu", "float32"),
        ("784-1024-1024-10", 512, "relu", "float32"),
        ("784-1024-1024-10", 4096, "relu", "float32"),
        ("784-256-128-10", 128, "relu", "float32"),
        ("64-64-64-1", 256, "relu", "float32"),
        ("32-32-32-1", 32, "tanh", "float32"),
    ]


def test_a_busy_machine_is_measured_where_it_is_asked_for() -> None:
    assert "busy" not in {part for part, _ in workloads.selected()}
    found = [row for _, row in workloads.selected(["busy"], quick=True)]
    assert [row.net for row in found] == ["128-512-512-10"] * 3 + ["64-128x3-1"] * 3
    assert [row.beside for row in found] == [0, 1, 2 * workloads.CORES] * 2


def test_too_large() -> None:
    row = Workload(TRAINING, (64, 512, 512, 1), 262144, "relu")
    assert "a step would take about 3 s" in str(workloads.too_large("batch", row, 1.5))
    assert workloads.too_large("batch", row, 0.25) is None
    assert workloads.too_large("rows", row, 1.5) is None
    assert workloads.too_large("batch", row, 0.05, quick=True) is not None
    wide = Workload(TRAINING, (64, 8191, 1), 262144, "relu")
    assert "a step would take about 26.0 GB" in str(workloads.too_large("batch", wide, 0.1))
    assert workloads.too_large("batch", wide, 0.1, most=27e9) is None


def test_a_gpus_memory_says_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 GB, of which several arms hold a step's each."""
    known = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: known)
    assert (
        workloads.largest(torch.device("cuda")) == 16e9
        and workloads.largest(CPU) == workloads.LARGEST
    )
