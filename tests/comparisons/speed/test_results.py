"""What is made of the times: ratios, spreads, means, tables and the style of the figures."""

from __future__ import annotations

import pytest

from comparisons.speed import figures, results, tables
from comparisons.speed.arms.arm import (
    ARMS,
    AUTOGRAD,
    COMPILE,
    COMPILE_LOSS,
    EXACT,
    FAST,
    JAX,
    ONE_PASS,
    SKLEARN,
)
from comparisons.speed.floor import BYTES, PRODUCTS
from comparisons.speed.results import Result
from comparisons.speed.workloads import TRAINING, Workload

ROW = Workload(TRAINING, (64, 128, 128, 128, 1), 65536, "relu")
SMALL, LARGE = (Workload(TRAINING, (64, 32, 32, 1), batch, "relu") for batch in (16, 64))
TIMES = {
    AUTOGRAD: [0.002, 0.004, 0.006],
    EXACT: [0.001, 0.001, 0.012],
    FAST: [0.1, 0.1, 0.1],
    COMPILE: [0.003, 0.003, 0.003],
    COMPILE_LOSS: [0.002, 0.002, 0.002],
}
FLOORS = {PRODUCTS: 0.0005, BYTES: 0.0001}
RESULT = Result("rows", ROW, TIMES, {AUTOGRAD: 2_000_000, EXACT: 1_500_000}, FLOORS)


def test_ratio_and_spread() -> None:
    """2, 4 and 0.5: their median, and half of what lies between their quartiles 0.5 and 4."""
    assert results.ratio(TIMES[AUTOGRAD], TIMES[EXACT]) == (2.0, 1.75)
    assert str(results.ratio(TIMES[AUTOGRAD], TIMES[FAST])) == "0.04 ±0.02"
    assert results.ratio([3.0], [1.5]) == (2.0, 0.0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        results.ratio([1.0, 2.0], [1.0])


def test_the_fastest_of_each_kind_are_compared() -> None:
    assert RESULT.fastest((EXACT, FAST)) == EXACT and RESULT.fastest((JAX,)) is None
    assert RESULT.against_ours((COMPILE, COMPILE_LOSS)) == results.ratio(
        TIMES[COMPILE_LOSS], TIMES[EXACT]
    )
    assert RESULT.against_ours((JAX,)) is None
    assert RESULT.over_floor(AUTOGRAD) == 8.0 and RESULT.over_floor(JAX) is None


def test_geometric_means() -> None:
    """Of 4 and 1: 2. A row without the arm does not count."""
    times = [
        {AUTOGRAD: [4.0], ONE_PASS: [1.0], JAX: [0.5], COMPILE: [9.0], COMPILE_LOSS: [2.0]},
        {AUTOGRAD: [1.0], ONE_PASS: [1.0], JAX: [0.5]},
    ]
    found = [Result("rows", row, t, {}) for row, t in zip((ROW, SMALL), times, strict=True)]
    assert results.geometric_means(found) == [
        "training: autograd / ours, geometric mean: one pass 2.00",
        "training: compile / ours, geometric mean: one pass 2.00",
        "training: JAX / ours, geometric mean: one pass 0.50",
    ]


def test_the_tables() -> None:
    found = {table.title.split(" ")[0]: table for table in tables.of([RESULT])}
    assert list(found) == ["Milliseconds", "Speed-up,", "The", "Peak"]
    for table in found.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    times = dict(zip(found["Milliseconds"].columns, found["Milliseconds"].rows[0], strict=True))
    assert (times["autograd"], times["compile,\nloss"], times["fast"]) == (
        "4.000",
        "2.000",
        "100.0",
    )
    ratios = dict(zip(found["Speed-up,"].columns, found["Speed-up,"].rows[0], strict=True))
    assert ratios["exact"] == "2.00 ±1.75" and "JAX" not in ratios
    assert found["The"].rows[0][2:] == [EXACT, "2.00 ±0.92", "0.500", "0.100", "8.00", "2.00"]
    assert found["Peak"].rows[0][-2:] == ["2.000", "1.500"]


def test_a_sweeps_table_has_a_dash_where_an_arm_is_absent() -> None:
    cells = [
        Result("batch", SMALL, TIMES, {}, FLOORS),
        Result("batch", LARGE, {**TIMES, SKLEARN: [0.004, 0.008, 0.012]}, {}, FLOORS),
    ]
    (table,) = tables.of(cells)
    column = table.columns.index("scikit-\nlearn")
    assert [row[column] for row in table.rows] == ["-", "0.50"]


def test_every_arm_has_its_own_colour_and_marker() -> None:
    assert set(figures.STYLE) == set(ARMS)
    for kind in (0, 1):
        assert len({style[kind] for style in figures.STYLE.values()}) == len(ARMS)
