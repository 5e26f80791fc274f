"""What is made of the times: ratios, spreads, means, tables and the record."""

from __future__ import annotations

import json
import math

import pytest

from comparisons.speed import results, tables
from comparisons.speed.arms.pytorch import (
    AUTOGRAD,
    COMPILE,
    COMPILE_LOSS,
    EXACT,
    FAST,
    JAX,
    ONE_PASS,
    SKLEARN,
)
from comparisons.speed.floor import BYTES, PRODUCTS, Rates
from comparisons.speed.results import Result
from comparisons.speed.workloads import BATCH, ROWS, SECOND_ORDER

TIMES = {
    AUTOGRAD: [0.002, 0.004, 0.006],
    EXACT: [0.001, 0.001, 0.012],
    FAST: [0.1, 0.1, 0.1],
    COMPILE: [0.003, 0.003, 0.003],
    COMPILE_LOSS: [0.002, 0.002, 0.002],
}
FLOORS = {PRODUCTS: 0.0005, BYTES: 0.0001}
CELL = Result("rows", ROWS[0], TIMES, {AUTOGRAD: 2_000_000, EXACT: 1_500_000}, FLOORS)


def test_ratio_and_spread() -> None:
    """2, 4 and 0.5: their median, and half of what lies between their quartiles 0.5 and 4."""
    assert results.ratio(TIMES[AUTOGRAD], TIMES[EXACT]) == (2.0, 1.75)
    assert str(results.ratio(TIMES[AUTOGRAD], TIMES[FAST])) == "0.04 ±0.02"
    assert results.ratio([3.0], [1.5]) == (2.0, 0.0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        results.ratio([1.0, 2.0], [1.0])


def test_the_fastest_of_each_kind_are_compared() -> None:
    assert CELL.fastest((EXACT, FAST)) == EXACT and CELL.fastest((JAX,)) is None
    assert CELL.against_ours((COMPILE, COMPILE_LOSS)) == results.ratio(
        TIMES[COMPILE_LOSS], TIMES[EXACT]
    )
    assert CELL.against_ours((JAX,)) is None
    assert CELL.over_floor(AUTOGRAD) == 8.0 and CELL.over_floor(JAX) is None


def test_geometric_means() -> None:
    """Of 4 and 1: 2. A row without the arm does not count."""
    times = [
        {AUTOGRAD: [4.0], ONE_PASS: [1.0], JAX: [0.5], COMPILE: [9.0], COMPILE_LOSS: [2.0]},
        {AUTOGRAD: [1.0], ONE_PASS: [1.0], JAX: [0.5]},
    ]
    found = [Result("rows", row, t, {}) for row, t in zip(ROWS, times, strict=False)]
    assert results.geometric_means(found).splitlines() == [
        "training: autograd / ours, geometric mean: one pass 2.00",
        "training: compile / ours, geometric mean: one pass 2.00",
        "training: JAX / ours, geometric mean: one pass 0.50",
    ]


def test_the_record_comes_back() -> None:
    second = Result("second-order", SECOND_ORDER[0], {AUTOGRAD: [1.0], EXACT: [2.0]}, {})
    written = results.record(
        [CELL, second], {"threads": 2}, Rates({"float32": 1e11}, 2e10), ["a note"]
    )
    read = json.loads(results.text(written))
    assert results.from_record(read) == [CELL, second] and read == written
    arm = read["cells"][0]["arms"][EXACT]
    assert arm["median"] == 0.001 and arm["quartiles"] == [0.001, 0.012]
    assert arm["autograd_over_this"] == {"median": 2.0, "spread": 1.75}
    assert (arm["over_floor"], arm["peak_bytes"]) == (2.0, 1_500_000)
    assert read["cells"][1]["compile_over_ours"] is None


def test_a_record_that_differs_is_noticed() -> None:
    written = results.record([CELL], {}, None, [])
    written["cells"][0]["arms"][EXACT]["seconds"][0] *= 2
    assert results.from_record(written) != [CELL]


def test_nan_is_no_json() -> None:
    broken = Result("rows", ROWS[0], {AUTOGRAD: [math.nan]}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.text(results.record([broken], {}, None, []))


def test_the_tables() -> None:
    found = {table.title.split(" ")[0]: table for table in tables.of([CELL])}
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
        Result("batch", BATCH[0], TIMES, {}, FLOORS),
        Result("batch", BATCH[1], {**TIMES, SKLEARN: [0.004, 0.008, 0.012]}, {}, FLOORS),
    ]
    (table,) = tables.of(cells)
    column = table.columns.index("scikit-\nlearn")
    assert [row[column] for row in table.rows] == ["-", "0.50"]
