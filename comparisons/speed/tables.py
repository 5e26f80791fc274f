"""The results as tables, for the terminal, for speed.md and for the README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from comparisons import machine
from comparisons.output import Table, markdown_values
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
from comparisons.speed.results import OTHERS, Result, geometric_mean, present, worst
from comparisons.speed.workloads import BUSY_PART, TABLE, WIDE

Columns = Mapping[str, Callable[[Result], str]]  # the text of a cell by its column's name

SWEEPS = {
    "batch": "Batch sweep",
    "depth": "Depth sweep, hidden layers of one width",
    "width": "Width sweep",
    "dtype": "Other dtypes",
    "gpu": "What a GPU is for, and what leaves it idle",
}
NET: Columns = {
    "widths": lambda result: result.workload.net,
    "batch": lambda result: f"{result.workload.batch:,}",
}
NAMES: Columns = {**NET, "f": lambda result: result.workload.activation}
IN_SHORT = (COMPILE_LOSS, EXACT, FAST, FUSED, NO_GRAPH, JAX)


def of(results: Sequence[Result], brief: bool = False) -> list[Table]:
    """Those of the rows, a compact one of every sweep, and means; without what was not measured.

    Brief is for terminals: without all times and all spreads of the rows, which are wide.
    """
    rows = [result for result in results if result.part in TABLE]
    found = of_rows(rows, brief) if rows else []
    for part, title in SWEEPS.items():
        swept = [result for result in results if result.part == part]
        found += [sweep(title, swept)] if swept else []
    found += [busy(under)] if (under := [r for r in results if r.part == BUSY_PART]) else []
    return found + means(results)


def of_rows(rows: Sequence[Result], brief: bool) -> list[Table]:
    """In short, all times and spreads, ours against others and the floors, and memory."""
    arms = present(rows)
    with_memory = [arm for arm in arms if any(r.megabytes(arm) is not None for r in rows)]
    times = _for_each(arms, lambda arm, result: _number(result.milliseconds(arm)))
    ratios = _for_each(_but_autograd(rows), lambda arm, r: str(r.speed_up(arm) or "-"))
    memory = _for_each(with_memory, lambda arm, result: _number(result.megabytes(arm)))
    wide = [row for row in rows if row.floors and max(row.workload.widths[1:-1]) >= WIDE]
    in_full = [
        _table("Milliseconds of one step (forward, loss, backward), median of the rounds",
               {**NET, **times}, rows),
        _table("Speed-up, autograd / each, with its spread", {**NET, **ratios}, rows),
    ]  # fmt: skip
    return [
        in_short(rows),
        *([] if brief else in_full),
        *([bound_by_products(wide)] if wide else []),
        against(rows),
        _table("Peak memory of a step beside weights and data, MB", {**NET, **memory}, rows),
    ]


def in_short(rows: Sequence[Result]) -> Table:
    """The README's: autograd's time, and its ratio to the arms that matter most."""
    arms = [arm for arm in present(rows) if arm in IN_SHORT]
    return _table(
        "A step: autograd / each, so above 1 it is faster than eager nn.Sequential",
        {"step": lambda result: result.workload.step, **NAMES,
         "autograd,\nms": lambda result: _number(result.milliseconds(AUTOGRAD)),
         **_for_each(arms, _speed_up)},
        rows,
    )  # fmt: skip


def means(results: Sequence[Result]) -> list[Table]:
    """For each step: geometric means over its rows, and each arm's worst cell of the whole grid."""
    found = []
    for step in dict.fromkeys(result.workload.step for result in results):
        cells = [r for r in results if r.workload.step == step and r.part != BUSY_PART]
        rows = [each for each in cells if each.part in TABLE]
        if rows:
            title = f"{step}: geometric means over {len(rows)} rows, worst of {len(cells)} cells"
            found.append(_means(title.capitalize() if step.islower() else title, rows, cells))
    return found


def _means(title: str, rows: Sequence[Result], cells: Sequence[Result]) -> Table:
    there = set(present(rows))
    others = {name: arms for name, arms in OTHERS.items() if set(arms) & there}
    lines = []
    for arm in _but_autograd(rows):
        averages = [geometric_mean(rows, arms, arm) for arms in others.values()]
        cell = worst(cells, arm)
        assert cell is not None
        dtype = "" if cell.workload.dtype == "float32" else f", {cell.workload.dtype}"
        lines.append([arm, *(f"{mean:.2f}" if mean else "-" for mean in averages),
                      _speed_up(arm, cell),
                      f"{cell.workload.net}, batch {cell.workload.batch:,}{dtype}"])  # fmt: skip
    columns = ["arm", *(f"over\n{name}" for name in others), "worst\ncell", "which is"]
    return Table(title, columns, lines)


def bound_by_products(results: Sequence[Result]) -> Table:
    """How many times the floor of its products each arm takes."""
    floors: Columns = {"products,\nms": partial(_floor, PRODUCTS)}
    each = _for_each(present(results), lambda arm, result: _over_floor(result, arm))
    title = f"Bound by products ({WIDE} features and more): each over the floor"
    return _table(title, {**NET, **floors, **each}, results)


def busy(results: Sequence[Result]) -> Table:
    """A step beside processes that keep a core busy each."""
    arms = _for_each(present(results), lambda arm, result: _number(result.milliseconds(arm)))
    return _table(
        "Beside busy processes: ms of a step, and autograd / FusedLoss",
        {**NET, "busy\nprocesses": lambda result: str(result.workload.beside), **arms,
         "autograd /\nFusedLoss": lambda result: str(result.speed_up(FUSED) or "-")},
        results,
    )  # fmt: skip


def against(results: Sequence[Result]) -> Table:
    """The fastest of ours against the others, and against the larger of the floors."""
    there = set(present(results))
    others = {k: v for k, v in OTHERS.items() if k != AUTOGRAD} | {SKLEARN: (SKLEARN,)}
    return _table(
        "The fastest of ours: above 1 it is faster; the floor is the larger of a step's products "
        "alone and its bytes alone",
        {**NET, "fastest\nof ours": lambda result: result.fastest(OURS) or "-",
         **{f"{name} /\nfastest": partial(_against_ours, arms)
            for name, arms in others.items() if set(arms) & there},
         "products,\nms": partial(_floor, PRODUCTS), "bytes,\nms": partial(_floor, BYTES),
         "autograd\nover floor": lambda result: _over_floor(result, AUTOGRAD),
         "fastest\nover floor": lambda result: _over_floor(result, result.fastest(OURS))},
        results,
    )  # fmt: skip


def sweep(title: str, results: Sequence[Result]) -> Table:
    """Autograd's time, its ratio to every other arm, over the floor, and the memory of two arms."""
    dtype: Columns = {"dtype": lambda result: result.workload.dtype}
    only_float32 = {result.workload.dtype for result in results} == {"float32"}
    return _table(
        f"{title}: autograd / each; MB of autograd and of the least of ours",
        {**NET, "autograd,\nms": lambda result: _number(result.milliseconds(AUTOGRAD)),
         **({} if only_float32 else dtype), **_for_each(_but_autograd(results), _speed_up),
         "autograd\n/ floor": lambda result: _over_floor(result, AUTOGRAD),
         "fastest\n/ floor": lambda result: _over_floor(result, result.fastest(OURS)),
         "autograd,\nMB": lambda result: _number(result.megabytes(AUTOGRAD)),
         "ours,\nMB": _least_of_ours},
        results,
    )  # fmt: skip


def page(written: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The tables, the notes and the machine of a record with these results, in Markdown."""
    parts = [f"# Speed on {machine.place(written['machine'])}"]
    for table in of(results):
        parts += [f"**{table.title}**", table.markdown()]
    lines = said(written)
    parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    known = dict(written["machine"])
    for dtype, rate in written["GFLOP_per_second"].items():
        known[f"{dtype} products"] = f"{rate:.1f} GFLOP/s"
    for rate in written["GB_per_second"].values():
        known["copy, read and written"] = f"{rate:.1f} GB/s"
    return "\n\n".join([*parts, markdown_values("machine", known)]) + "\n"


def said(written: Mapping[str, Any]) -> list[str]:
    """What is absent, and what computed something else and was left out for that."""
    return [*written["notes"], *(f"DIFFERS, left out: {line}" for line in written["differing"])]


def _table(title: str, columns: Columns, results: Sequence[Result]) -> Table:
    return Table(title, list(columns), [[cell(r) for cell in columns.values()] for r in results])


def _for_each(arms: Sequence[str], cell: Callable[[str, Result], str]) -> Columns:
    """A column for each arm, with its name in two short lines."""
    columns: dict[str, Callable[[Result], str]] = {}
    for arm in arms:
        name = arm.replace(", ", ",\n").replace(" ", "\n").replace("-learn", "-\nlearn")
        columns[name] = partial(cell, arm)
    return columns


def _but_autograd(results: Sequence[Result]) -> list[str]:
    return [arm for arm in present(results) if arm != AUTOGRAD]


def _least_of_ours(result: Result) -> str:
    found = [size for arm in OURS if (size := result.megabytes(arm)) is not None]
    return _number(min(found, default=None))


def _over_floor(result: Result, arm: str | None) -> str:
    value = result.over_floor(arm)
    return "-" if value is None else f"{value:.{2 if value < 10 else 0}f}"


def _floor(name: str, result: Result) -> str:
    """Milliseconds, however few."""
    if name not in result.floors:
        return "-"
    value = 1e3 * result.floors[name]
    return _number(value) if value >= 0.1 else f"{value:.2g}"


def _against_ours(arms: Sequence[str], result: Result) -> str:
    value = result.over(arms, result.fastest(OURS))
    return "-" if value is None else f"{value:.2f}"


def _speed_up(arm: str, result: Result) -> str:
    found = result.speed_up(arm)
    return "-" if found is None else f"{found.median:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{3 if value < 10 else 1 if value < 1000 else 0}f}"
