"""What is made of the times: ratios, spreads, means, tables and the style of the figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comparisons import pixels
from comparisons.output import Table
from comparisons.speed import figures, results
from comparisons.speed.arms.arm import (
    ARMS,
    AUTOGRAD,
    COMPILE,
    COMPILE_LOSS,
    EXACT,
    FAST,
    FUSED,
    JAX,
    NO_GRAPH,
    SKLEARN,
)
from comparisons.speed.floor import BYTES, PRODUCTS
from comparisons.speed.results import Result, measured_arms
from comparisons.speed.tables import page, steps
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
ARMS_OF_ROW = measured_arms(TIMES, {AUTOGRAD: 2_000_000, EXACT: 1_500_000})
RESULT = Result("rows", ROW, ARMS_OF_ROW, FLOORS)


def measured(**seconds: float) -> dict[str, results.Measured]:
    """One round of every arm; Python's names for theirs."""
    names = {"autograd": AUTOGRAD, "exact": EXACT, "fused": FUSED, "jax": JAX, "free": NO_GRAPH}
    return measured_arms({names[key]: [value] for key, value in seconds.items()}, {})


def columns(table: Table) -> dict[str, str]:
    """The first row by the names of its columns."""
    return dict(zip(table.columns, table.rows[0], strict=True))


def test_ratio_and_spread() -> None:
    """2, 4 and 0.5: their median, and half of what lies between their quartiles 0.5 and 4."""
    assert results.ratio(TIMES[AUTOGRAD], TIMES[EXACT]) == (2.0, 1.75)
    assert str(results.ratio(TIMES[AUTOGRAD], TIMES[FAST])) == "0.04 ±0.02"
    assert results.ratio([3.0], [1.5]) == (2.0, 0.0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        results.ratio([1.0, 2.0], [1.0])


def test_medians_of_every_arm() -> None:
    assert ARMS_OF_ROW[EXACT] == (0.001, (2.0, 1.75), 1_500_000)
    assert ARMS_OF_ROW[AUTOGRAD] == (0.004, (1.0, 0.0), 2_000_000)
    assert ARMS_OF_ROW[FAST].peak is None


def test_the_fastest_of_each_kind_are_compared() -> None:
    assert RESULT.fastest((EXACT, FAST)) == EXACT and RESULT.fastest((JAX,)) is None
    assert RESULT.over((COMPILE, COMPILE_LOSS), EXACT) == 1.0  # 2 times autograd, both
    assert RESULT.over((COMPILE,), EXACT) == pytest.approx(2 / (4 / 3))
    assert RESULT.over((JAX,), EXACT) is RESULT.over((COMPILE,), JAX) is None
    assert RESULT.over_floor(AUTOGRAD) == 8.0 and RESULT.over_floor(JAX) is None


CELLS = [
    Result("rows", ROW, measured(autograd=4, fused=1, free=0.5, jax=0.5)),
    Result("rows", SMALL, measured(autograd=1, fused=1)),
    Result("batch", LARGE, measured(autograd=1, fused=4, jax=2)),
    Result("busy", replace(LARGE, beside=1), measured(autograd=1, fused=9)),
]


def test_geometric_means() -> None:
    """Of 4 and 1: 2. A row without the arm does not count."""
    rows = CELLS[:2]
    assert results.geometric_mean(rows, (AUTOGRAD,), FUSED) == 2.0
    assert results.geometric_mean(rows, (JAX,), FUSED) == 0.5
    assert results.geometric_mean(rows, (COMPILE,), FUSED) is None


def test_the_means_are_of_rows_and_the_worst_cell_of_all() -> None:
    """Not of the busy machine's."""
    (table,) = steps.means(CELLS)
    assert table.title == "Training: geometric means over 2 rows, worst of 3 cells"
    assert list(table.columns) == ["arm", "over\nautograd", "over\nJAX", "worst\ncell", "which is"]
    assert table.rows == [
        [FUSED, "2.00", "0.50", "0.25", "64-32-32-1, batch 64"],
        [NO_GRAPH, "8.00", "1.00", "8.00", "64-128x3-1, batch 65,536"],
        [JAX, "8.00", "1.00", "0.50", "64-32-32-1, batch 64"],
    ]
    assert steps.means(CELLS[2:]) == []


def test_the_tables() -> None:
    found = {table.title.split(" ")[0]: table for table in page.of([RESULT])}
    assert list(found) == ["A", "Milliseconds", "Speed-up,", "The", "Peak", "Training:"]
    for table in found.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    short = columns(found["A"])
    assert (short["autograd,\nms"], short["compile,\nloss"], short["fast"]) == (
        "4.000", "2.00", "0.04")  # fmt: skip
    times = columns(found["Milliseconds"])
    assert (times["autograd"], times["compile,\nloss"], times["fast"]) == (
        "4.000", "2.000", "100.0")  # fmt: skip
    ratios = columns(found["Speed-up,"])
    assert ratios["exact"] == "2.00 ±1.75" and "JAX" not in ratios
    assert found["The"].rows[0][2:] == [EXACT, "1.00", "0.500", "0.100", "8.00", "2.00"]
    assert found["Peak"].rows[0][-2:] == ["2.000", "1.500"]
    brief = [table.title.split(" ")[0] for table in page.of([RESULT], brief=True)]
    assert brief == ["A", "The", "Peak", "Training:"]


def test_what_is_bound_by_products_stands_over_the_floor() -> None:
    wide = replace(ROW, widths=(128, 512, 512, 10))
    found = [t for t in page.of([RESULT, replace(RESULT, workload=wide)]) if "Bound" in t.title]
    (table,) = found
    assert table.rows == [
        ["128-512-512-10", "65,536", "0.500", "8.00", "6.00", "4.00", "2.00", "200"]]  # fmt: skip


def test_a_busy_machine_has_a_table() -> None:
    (table,) = page.of(CELLS[3:])
    assert table.rows == [["64-32-32-1", "64", "1", "1000", "9000", "0.11 ±0.00"]]


def test_a_sweeps_table_has_a_dash_where_an_arm_is_absent() -> None:
    more = measured_arms({**TIMES, SKLEARN: [0.004, 0.008, 0.012]}, {})
    cells = [Result("batch", SMALL, ARMS_OF_ROW, FLOORS), Result("batch", LARGE, more, FLOORS)]
    (table,) = page.of(cells)
    column = table.columns.index("scikit-\nlearn")
    assert [row[column] for row in table.rows] == ["-", "0.50"]


def test_every_arm_has_its_own_colour_and_marker() -> None:
    assert set(figures.STYLE) == set(ARMS)
    for kind in (0, 1):
        assert len({style[kind] for style in figures.STYLE.values()}) == len(ARMS)


def test_nothing_is_cut_off() -> None:
    """The legend, with the longest name of an arm, lies in the picture."""
    arms = measured_arms({name: [0.001 * (i + 1)] for i, name in enumerate(ARMS)}, {})
    found = [Result("rows", w, arms, FLOORS) for w in (SMALL, LARGE)]
    for picture in (
        figures.bars(found, "a machine"),
        figures.panels(found, figures.speed_up, "a machine"),
        figures.single("width", found, "a machine"),
    ):
        pixels.of(picture)  # lays it out
        for part in (*picture.legends, *picture.axes):
            box, inside = part.get_window_extent(), picture.bbox
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1
            assert inside.y0 <= box.y0 and box.y1 <= inside.y1
