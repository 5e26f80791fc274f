"""The tables of steps: rows in short and in full, means, sweeps, a busy machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from comparisons.output import Table
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    COMPILE_LOSS,
    EXACT,
    FAST,
    FUSED,
    JAX,
    NO_GRAPH,
    OURS,
    SKLEARN,
)
from comparisons.speed.floor import BYTES, PRODUCTS
from comparisons.speed.results import OTHERS, Result, present
from comparisons.speed.tables.cells import (
    NAMES,
    NET,
    Columns,
    for_each,
    means_and_worst,
    number,
    over_floor,
    speed_up,
    speed_ups,
    table,
    times_ratios_memory,
)
from comparisons.speed.workloads import BUSY_PART, DERIVATIVES_PART, TABLE, WIDE

APART = (BUSY_PART, DERIVATIVES_PART)  # in no means with the other parts
IN_SHORT = (COMPILE_LOSS, EXACT, FAST, FUSED, NO_GRAPH, JAX)


def of_rows(rows: Sequence[Result], brief: bool) -> list[Table]:
    """In short, all times and spreads, ours against others and the floors, and memory."""
    times, ratios, memory = times_ratios_memory(rows, NET)
    wide = [row for row in rows if row.floors and max(row.workload.widths[1:-1]) >= WIDE]
    return [
        in_short(rows),
        *([] if brief else [times, ratios]),
        *([bound_by_products(wide)] if wide else []),
        against(rows),
        memory,
    ]


def in_short(rows: Sequence[Result]) -> Table:
    """In docs/speed.md: autograd's time, and its ratio to the arms that matter most."""
    arms = [arm for arm in present(rows) if arm in IN_SHORT]
    return table(
        "A step: autograd / each, so above 1 it is faster than eager nn.Sequential",
        {**NAMES,
         "autograd,\nms": lambda result: number(result.milliseconds(AUTOGRAD)),
         **for_each(arms, speed_up)},
        rows,
    )  # fmt: skip


def rows_and_cells(
    results: Sequence[Result], step: str
) -> tuple[Sequence[Result], Sequence[Result]]:
    """What means are taken over, and the whole grid with the sweeps."""
    cells = [r for r in results if r.workload.step == step and r.part not in APART]
    return [each for each in cells if each.part in TABLE], cells


def means(results: Sequence[Result]) -> list[Table]:
    """For each step: geometric means over its rows, and each arm's worst cell of the whole grid."""
    found = []
    for step in dict.fromkeys(result.workload.step for result in results):
        rows, cells = rows_and_cells(results, step)
        if rows:
            title = f"{step}: geometric means over {len(rows)} rows, worst of {len(cells)} cells"
            found.append(
                means_and_worst(title.capitalize() if step.islower() else title, rows, cells)
            )
    return found


def bound_by_products(results: Sequence[Result]) -> Table:
    """How many times the floor of its products each arm takes."""
    floors: Columns = {"products,\nms": partial(_floor, PRODUCTS)}
    each = for_each(present(results), lambda arm, result: over_floor(result, arm))
    title = f"Bound by products ({WIDE} features and more): each over the floor"
    return table(title, {**NET, **floors, **each}, results)


def busy(results: Sequence[Result]) -> Table:
    """A step beside processes that keep a core busy each."""
    arms = for_each(present(results), lambda arm, result: number(result.milliseconds(arm)))
    return table(
        "Beside busy processes: ms of a step, and autograd / FusedLoss",
        {**NET, "busy\nprocesses": lambda result: str(result.workload.beside), **arms,
         "autograd /\nFusedLoss": lambda result: str(result.speed_up(FUSED) or "-")},
        results,
    )  # fmt: skip


def against(results: Sequence[Result]) -> Table:
    """The fastest of ours against the others, and against the larger of the floors."""
    there = set(present(results))
    others = {k: v for k, v in OTHERS.items() if k != AUTOGRAD} | {SKLEARN: (SKLEARN,)}
    return table(
        "The fastest of ours: above 1 it is faster; the floor is the larger of a step's products "
        "alone and its bytes alone",
        {**NET, "fastest\nof ours": lambda result: result.fastest(OURS) or "-",
         **{f"{name} /\nfastest": partial(_against_ours, arms)
            for name, arms in others.items() if set(arms) & there},
         "products,\nms": partial(_floor, PRODUCTS), "bytes,\nms": partial(_floor, BYTES),
         "autograd\nover floor": lambda result: over_floor(result, AUTOGRAD),
         "fastest\nover floor": lambda result: over_floor(result, result.fastest(OURS))},
        results,
    )  # fmt: skip


def sweep(title: str, results: Sequence[Result]) -> Table:
    """Autograd's time, its ratio to every other arm, over the floor, and the memory of two arms."""
    dtype: Columns = {"dtype": lambda result: result.workload.dtype}
    only_float32 = {result.workload.dtype for result in results} == {"float32"}
    return table(
        f"{title}: autograd / each; MB of autograd and of the least of ours",
        {**NET, "autograd,\nms": lambda result: number(result.milliseconds(AUTOGRAD)),
         **({} if only_float32 else dtype), **speed_ups(results),
         "autograd\n/ floor": lambda result: over_floor(result, AUTOGRAD),
         "fastest\n/ floor": lambda result: over_floor(result, result.fastest(OURS)),
         "autograd,\nMB": lambda result: number(result.megabytes(AUTOGRAD)),
         "ours,\nMB": _least_of_ours},
        results,
    )  # fmt: skip


def _least_of_ours(result: Result) -> str:
    found = [size for arm in OURS if (size := result.megabytes(arm)) is not None]
    return number(min(found, default=None))


def _floor(name: str, result: Result) -> str:
    """Milliseconds, however few."""
    if name not in result.floors:
        return "-"
    value = 1e3 * result.floors[name]
    return number(value) if value >= 0.1 else f"{value:.2g}"


def _against_ours(arms: Sequence[str], result: Result) -> str:
    value = result.over(arms, result.fastest(OURS))
    return "-" if value is None else f"{value:.2f}"
