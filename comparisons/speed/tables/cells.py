"""What the tables are made of: columns, and the text of a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from comparisons.output import Table
from comparisons.speed.arms.arm import AUTOGRAD
from comparisons.speed.results import OTHERS, Result, geometric_mean, present, worst

Columns = Mapping[str, Callable[[Result], str]]  # the text of a cell by its column's name

NET: Columns = {
    "widths": lambda result: result.workload.net,
    "batch": lambda result: f"{result.workload.batch:,}",
}
NAMES: Columns = {
    "step": lambda result: result.workload.step,
    **NET,
    "f": lambda result: result.workload.activation,
}


def table(title: str, columns: Columns, results: Sequence[Result]) -> Table:
    """A row for each result."""
    return Table(title, list(columns), [[cell(r) for cell in columns.values()] for r in results])


def times_ratios_memory(rows: Sequence[Result], names: Columns) -> tuple[Table, Table, Table]:
    """Of every arm, in full; ``names`` are the columns that say what a row is."""
    arms = present(rows)
    with_memory = [arm for arm in arms if any(r.megabytes(arm) is not None for r in rows)]
    times = for_each(arms, lambda arm, result: number(result.milliseconds(arm)))
    ratios = for_each(but_autograd(rows), lambda arm, r: str(r.speed_up(arm) or "-"))
    memory = for_each(with_memory, lambda arm, result: number(result.megabytes(arm)))
    return (
        table("Milliseconds of one step (forward, loss, backward), median of the rounds",
              {**names, **times}, rows),
        table("Speed-up, autograd / each, with its spread", {**names, **ratios}, rows),
        table("Peak memory of a step beside weights and data, MB", {**names, **memory}, rows),
    )  # fmt: skip


def speed_ups(results: Sequence[Result]) -> Columns:
    """autograd / each, a column for each arm but autograd."""
    return for_each(but_autograd(results), speed_up)


def means_and_worst(title: str, rows: Sequence[Result], cells: Sequence[Result]) -> Table:
    """Of each arm: geometric means over the rows, and the cell where it is slowest."""
    several = len({cell.workload.step for cell in cells}) > 1
    there = set(present(rows))
    others = {name: arms for name, arms in OTHERS.items() if set(arms) & there}
    lines = []
    for arm in but_autograd(rows):
        averages = [geometric_mean(rows, arms, arm) for arms in others.values()]
        cell = worst(cells, arm)
        assert cell is not None
        dtype = "" if cell.workload.dtype == "float32" else f", {cell.workload.dtype}"
        which = f"{cell.workload.step}, {cell.workload.activation}, " if several else ""
        place = f"{which}{cell.workload.net}, batch {cell.workload.batch:,}{dtype}"
        over = [f"{mean:.2f}" if mean else "-" for mean in averages]
        lines.append([arm, *over, speed_up(arm, cell), place])
    columns = ["arm", *(f"over\n{name}" for name in others), "worst\ncell", "which is"]
    return Table(title, columns, lines)


def for_each(arms: Sequence[str], cell: Callable[[str, Result], str]) -> Columns:
    """A column for each arm, with its name in two short lines."""
    columns: dict[str, Callable[[Result], str]] = {}
    for arm in arms:
        name = arm.replace(", ", ",\n").replace(" ", "\n").replace("-learn", "-\nlearn")
        columns[name] = partial(cell, arm)
    return columns


def but_autograd(results: Sequence[Result]) -> list[str]:
    """The arms that were measured, without the one that all are set against."""
    return [arm for arm in present(results) if arm != AUTOGRAD]


def over_floor(result: Result, arm: str | None) -> str:
    """How many times the floor."""
    value = result.over_floor(arm)
    return "-" if value is None else f"{value:.{2 if value < 10 else 0}f}"


def speed_up(arm: str, result: Result) -> str:
    """autograd / arm."""
    found = result.speed_up(arm)
    return "-" if found is None else f"{found.median:.2f}"


def number(value: float | None) -> str:
    """Three digits or four."""
    if value is None:
        return "-"
    return f"{value:.{3 if value < 10 else 1 if value < 1000 else 0}f}"
