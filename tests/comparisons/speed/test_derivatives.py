"""Derivatives by the input as a part of the comparison: its rows, run, tables, and the README's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from comparisons.__main__ import main
from comparisons.output import Table
from comparisons.speed import command, floor, pages, record, workloads
from comparisons.speed.arms import by_jax
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    DERIVATIVES,
    DERIVATIVES_PYTHON,
    JAX,
    JAX_JET,
    TORCH_FUNC,
)
from comparisons.speed.record import JSON, MARKDOWN
from comparisons.speed.results import Result, measured_arms
from comparisons.speed.tables import by_input, page, steps
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import DIRECTIONS, INPUT_GRADIENT, LAPLACIAN, Workload
from manualbp.fast import native
from tests.comparisons.speed.test_command import without_jax
from tests.comparisons.speed.test_results import CELLS

ROW = Workload(LAPLACIAN, (2, 64, 64, 64, 1), 1024, "tanh")
TIMES = {AUTOGRAD: [0.006], DERIVATIVES: [0.001], JAX: [0.003], JAX_JET: [0.002]}
ONE = Result("derivatives", ROW, measured_arms(TIMES, {AUTOGRAD: 9_000_000, DERIVATIVES: 10**6}))
OTHER = Result(
    "derivatives", replace(ROW, step=INPUT_GRADIENT, activation="silu"),
    measured_arms({AUTOGRAD: [0.006], DERIVATIVES: [0.004]}, {}),
)  # fmt: skip
ROWS = [ONE, OTHER]


def column(table: Table, name: str) -> list[str]:
    return [row[list(table.columns).index(name)] for row in table.rows]


def test_the_main_rows_are_these_four() -> None:
    """The first ones; every step, one input and a hundred, and several outputs are there too."""
    rows = workloads.DERIVATIVES
    assert [(w.step, w.net, w.batch, w.activation) for w in rows[:4]] == [
        (LAPLACIAN, "2-128x4-1", 4096, "tanh"),
        (LAPLACIAN, "2-64x3-1", 1024, "tanh"),
        (LAPLACIAN, "2-32x3-1", 128, "tanh"),
        (LAPLACIAN, "3-256x3-1", 4096, "tanh"),
    ]
    assert {w.step for w in rows} == {LAPLACIAN, INPUT_GRADIENT, DIRECTIONS}
    assert {w.widths[0] for w in rows} == {1, 2, 3, 100} and {w.widths[-1] for w in rows} == {1, 5}
    assert {w.activation for w in rows} == {"tanh", "silu", "softplus", "gelu"}
    assert [w for _, w in workloads.selected(["derivatives"], quick=True)] == list(rows)
    assert "derivatives" in {part for part, _ in workloads.selected()}


def test_the_tables() -> None:
    short, times, ratios, memory, means = by_input.of(ROWS)
    assert column(short, "autograd,\nms") == ["6.000", "6.000"]
    assert column(short, "derivatives") == ["6.00", "1.50"]
    assert column(short, "JAX,\njet") == ["3.00", "-"]
    assert column(short, "autograd,\nMB") == ["9.000", "-"]
    assert column(short, "derivatives,\nMB") == ["1.000", "-"]
    for table in (short, times, ratios, memory):  # a net alone does not say which row it is
        assert column(table, "step") == [LAPLACIAN, INPUT_GRADIENT]
        assert column(table, "f") == ["tanh", "silu"]
    assert means.rows == [
        [DERIVATIVES, "3.00", "2.00", "1.50", "input gradient, silu, 2-64x3-1, batch 1,024"],
        [JAX, "2.00", "0.67", "2.00", "Laplacian, tanh, 2-64x3-1, batch 1,024"],
        [JAX_JET, "3.00", "1.00", "3.00", "Laplacian, tanh, 2-64x3-1, batch 1,024"],
    ]
    assert by_input.of(ROWS, brief=True) == [short, memory, means] and by_input.of(CELLS) == []


def test_they_are_in_no_table_of_the_other_parts() -> None:
    second = replace(ONE, part="second-order")
    alone, both = page.of([*CELLS, second]), page.of([*CELLS, second, *ROWS])
    assert both == alone + by_input.of(ROWS)
    assert steps.means(ROWS) == []


def test_the_page_has_a_table_where_the_record_has_the_part() -> None:
    without, found = pages.in_full(CELLS), pages.in_full([*CELLS, *ROWS])
    added = found.removeprefix(without)
    assert added != found and "Derivatives" not in without
    assert added.count("**Derivatives by the input: ") == 2
    assert "| Laplacian | 2-64x3-1 | 1,024 | tanh | 6.000 | 6.00 | 2.00 | 3.00 |" in added


def test_only_derivatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """All arms that there are, their memory, and the record read back."""
    monkeypatch.chdir(tmp_path)
    rows = tuple(Workload(step, (2, 4, 1), 8, "tanh") for step in (INPUT_GRADIENT, LAPLACIAN))
    monkeypatch.setattr(workloads, "PARTS", {"derivatives": rows})
    monkeypatch.setattr(command, "QUICK", {"derivatives": Budget(0.001, 2, 2)})
    monkeypatch.setattr(floor, "SHAPES", ((16, 16, 16),))
    monkeypatch.setattr(floor, "COPIED", 2**20)
    monkeypatch.setattr(by_jax, "prepare", without_jax)
    assert main(["speed", "--quick", "--only", "derivatives", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert "Derivatives by the input: nested autograd / each" in printed
    assert "no torch.compile with --quick" in printed
    written = json.loads((tmp_path / "out" / JSON).read_text())
    python = [DERIVATIVES_PYTHON] if native.library() else []
    for cell in written["cells"]:
        arms = cell["arms"]
        assert {AUTOGRAD, DERIVATIVES, *python, TORCH_FUNC} <= set(arms)
        assert all(numbers[3] > 0 for numbers in arms.values())
    assert "| Laplacian | 2-4-1 | 8 | tanh |" in (tmp_path / "out" / MARKDOWN).read_text()
    assert "**Derivatives" in page.page(written, record.from_record(written))
