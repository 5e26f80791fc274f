"""The tables of derivatives by the input: steps that train through du/dx or second derivatives."""

from __future__ import annotations

from collections.abc import Sequence

from comparisons.output import Table
from comparisons.speed.arms.arm import AUTOGRAD, DERIVATIVES
from comparisons.speed.results import Result
from comparisons.speed.tables.cells import (
    NAMES,
    means_and_worst,
    number,
    speed_ups,
    table,
    times_ratios_memory,
)
from comparisons.speed.workloads import DERIVATIVES_PART


def of(results: Sequence[Result], brief: bool = False) -> list[Table]:
    """In short, all times and spreads, memory, means; none where the part was not measured.

    Brief is for terminals: without all times and all spreads.
    """
    rows = rows_of(results)
    if not rows:
        return []
    times, ratios, memory = times_ratios_memory(rows, NAMES)
    return [in_short(rows), *([] if brief else [times, ratios]), memory, means(rows)]


def rows_of(results: Sequence[Result]) -> list[Result]:
    """Those of the part."""
    return [result for result in results if result.part == DERIVATIVES_PART]


def in_short(rows: Sequence[Result]) -> Table:
    """In docs/speed.md: autograd's time, its ratio to every arm, and the memory of two."""
    return table(
        "Derivatives by the input: nested autograd / each, and peak MB of nested autograd and of "
        f"{DERIVATIVES}",
        {**NAMES,
         "autograd,\nms": lambda result: number(result.milliseconds(AUTOGRAD)),
         **speed_ups(rows),
         "autograd,\nMB": lambda result: number(result.megabytes(AUTOGRAD)),
         f"{DERIVATIVES},\nMB": lambda result: number(result.megabytes(DERIVATIVES))},
        rows,
    )  # fmt: skip


def means(rows: Sequence[Result]) -> Table:
    """Geometric means over all of them, and the worst."""
    title = f"Derivatives by the input: geometric means over {len(rows)} rows, and the worst"
    return means_and_worst(title, rows, rows)
