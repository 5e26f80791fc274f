"""The results as tables, for the terminal and for speed.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from comparisons import machine
from comparisons.output import Table, markdown_values
from comparisons.speed.arms.arm import AUTOGRAD, OURS, SKLEARN
from comparisons.speed.floor import BYTES, PRODUCTS
from comparisons.speed.results import OTHERS, Result, geometric_means, present
from comparisons.speed.workloads import TABLE

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


def of(results: Sequence[Result]) -> list[Table]:
    """Four of the rows, and a compact one of every sweep; without what was not measured."""
    rows = [result for result in results if result.part in TABLE]
    found = of_rows(rows) if rows else []
    for part, title in SWEEPS.items():
        swept = [result for result in results if result.part == part]
        found += [sweep(title, swept)] if swept else []
    return found


def of_rows(rows: Sequence[Result]) -> list[Table]:
    """Times, speed-ups, ours against others and against the floors, and memory."""
    arms = present(rows)
    with_memory = [arm for arm in arms if any(arm in result.memory for result in rows)]
    times = _for_each(arms, lambda arm, result: _number(result.milliseconds(arm)))
    ratios = _for_each(_but_autograd(rows), lambda arm, r: str(r.ratio(AUTOGRAD, arm) or "-"))
    memory = _for_each(with_memory, lambda arm, result: _number(result.megabytes(arm)))
    return [
        _table("Milliseconds of one step (forward, loss, backward), median of the rounds",
               {"step": lambda result: result.workload.step, **NAMES, **times}, rows),
        _table("Speed-up, autograd / each: above 1 it is faster than eager nn.Sequential",
               {**NAMES, **ratios}, rows),
        against(rows),
        _table("Peak memory of a step beside weights and data, MB", {**NAMES, **memory}, rows),
    ]  # fmt: skip


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
    lines = [*geometric_means(results), *written["notes"]]
    parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    known = dict(written["machine"])
    for dtype, rate in written["operations_per_second"].items():
        known[f"{dtype} products"] = f"{rate / 1e9:.1f} GFLOP/s"
    if copied := written.get("bytes_per_second"):
        known["copy, read and written"] = f"{copied / 1e9:.1f} GB/s"
    return "\n\n".join([*parts, markdown_values("machine", known)]) + "\n"


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
    return str(result.against_ours(arms) or "-")


def _speed_up(arm: str, result: Result) -> str:
    found = result.speed_up(arm)
    return "-" if found is None else f"{found:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{3 if value < 10 else 1 if value < 1000 else 0}f}"
