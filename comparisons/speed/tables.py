"""The results as tables, for the terminal and for speed.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from comparisons.speed.arms.pytorch import ARMS, AUTOGRAD, OURS, SKLEARN
from comparisons.speed.floor import BYTES, PRODUCTS
from comparisons.speed.results import OTHERS, Ratio, Result, present
from comparisons.speed.workloads import TABLE


class Table(NamedTuple):
    """A title, the columns' names and the cells."""

    title: str
    columns: list[str]
    rows: list[list[str]]


SWEEPS = {
    "batch": "Batch sweep",
    "depth": "Depth sweep, hidden layers of one width",
    "width": "Width sweep",
    "dtype": "Other dtypes",
    "gpu": "What a GPU is for, and what leaves it idle",
}


def of(results: Sequence[Result]) -> list[Table]:
    """Four of the rows, and a compact one of every sweep; without what was not measured."""
    rows = [result for result in results if result.part in TABLE]
    found = [make(rows) for make in (milliseconds, ratios, against, memory)] if rows else []
    for part, title in SWEEPS.items():
        cells = [result for result in results if result.part == part]
        found += [sweep(title, cells)] if cells else []
    return found


def milliseconds(results: Sequence[Result]) -> Table:
    """The median of every arm."""
    arms = present(results)
    return Table(
        "Milliseconds of one step (forward, loss, backward), median of the rounds",
        ["step", "widths", "batch", "f", *(_broken(arm) for arm in arms)],
        [
            [result.row.step, *_names(result), *(_milliseconds(result, arm) for arm in arms)]
            for result in results
        ],
    )


def ratios(results: Sequence[Result]) -> Table:
    """Autograd's time over each other arm's."""
    arms = [arm for arm in present(results) if arm != AUTOGRAD]
    return Table(
        "Speed-up, autograd / each: above 1 it is faster than eager nn.Sequential",
        ["widths", "batch", "f", *(_broken(arm) for arm in arms)],
        [
            [*_names(result), *(_ratio(result.ratio(AUTOGRAD, arm)) for arm in arms)]
            for result in results
        ],
    )


def against(results: Sequence[Result]) -> Table:
    """The fastest of ours against the others, and against the larger of the floors."""
    others = {k: v for k, v in OTHERS.items() if k != AUTOGRAD} | {SKLEARN: (SKLEARN,)}
    there = {name: arms for name, arms in others.items() if set(arms) & set(present(results))}
    return Table(
        "The fastest of ours: above 1 it is faster; the floor is the larger of a step's products "
        "alone and its bytes alone",
        ["widths", "batch", "fastest\nof ours", *(f"{name} /\nfastest" for name in there),
         "products,\nms", "bytes,\nms", "autograd\nover floor", "fastest\nover floor"],
        [
            [
                *_names(result)[:2],
                result.fastest(OURS) or "-",
                *(_ratio(result.against_ours(arms)) for arms in there.values()),
                *(_floor(result, name) for name in (PRODUCTS, BYTES)),
                *_over_floor(result),
            ]
            for result in results
        ],
    )  # fmt: skip


def memory(results: Sequence[Result]) -> Table:
    """The peak of every arm."""
    arms = [arm for arm in ARMS if any(arm in result.memory for result in results)]
    return Table(
        "Peak memory of a step beside weights and data, MB",
        ["widths", "batch", "f", *(_broken(arm) for arm in arms)],
        [[*_names(result), *(_megabytes(result, arm) for arm in arms)] for result in results],
    )


def sweep(title: str, results: Sequence[Result]) -> Table:
    """Autograd's time, its ratio to every other arm, over the floor, and the memory of two arms."""
    arms = [arm for arm in present(results) if arm != AUTOGRAD]
    dtypes = {result.row.dtype for result in results}
    cells: dict[str, Callable[[Result], str]] = {
        "widths": lambda result: _names(result)[0],
        "batch": lambda result: _names(result)[1],
        "autograd,\nms": lambda result: _milliseconds(result, AUTOGRAD),
    }
    if dtypes != {"float32"}:
        cells["dtype"] = lambda result: result.row.dtype
    for arm in arms:
        cells[_broken(arm)] = partial(_speed_up, arm)
    cells["autograd\n/ floor"] = lambda result: _over_floor(result)[0]
    cells["fastest\n/ floor"] = lambda result: _over_floor(result)[1]
    cells["autograd,\nMB"] = lambda result: _megabytes(result, AUTOGRAD)
    cells["ours,\nMB"] = _least_of_ours
    return Table(
        f"{title}: autograd / each; MB of autograd and of the least of ours",
        list(cells),
        [[make(result) for make in cells.values()] for result in results],
    )


def _names(result: Result) -> list[str]:
    row = result.row
    return [row.net, f"{row.batch:,}", row.activation]


def _milliseconds(result: Result, arm: str) -> str:
    return _number(1e3 * result.median(arm) if arm in result.times else None)


def _megabytes(result: Result, arm: str) -> str:
    return _number(result.memory[arm] / 1e6 if arm in result.memory else None)


def _least_of_ours(result: Result) -> str:
    found = [result.memory[arm] for arm in OURS if arm in result.memory]
    return _number(min(found) / 1e6 if found else None)


def _over_floor(result: Result) -> list[str]:
    found = (result.over_floor(arm) for arm in (AUTOGRAD, result.fastest(OURS)))
    return ["-" if value is None else f"{value:.{2 if value < 10 else 0}f}" for value in found]


def _floor(result: Result, name: str) -> str:
    """Milliseconds, however few."""
    if name not in result.floors:
        return "-"
    value = 1e3 * result.floors[name]
    return _number(value) if value >= 0.1 else f"{value:.2g}"


def _ratio(found: Ratio | None) -> str:
    return "-" if found is None else str(found)


def _speed_up(arm: str, result: Result) -> str:
    found = result.ratio(AUTOGRAD, arm)
    return "-" if found is None else f"{found.median:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{3 if value < 10 else 1 if value < 1000 else 0}f}"


def _broken(name: str) -> str:
    """A heading of two short lines."""
    return name.replace(", ", ",\n").replace(" ", "\n").replace("-learn", "-\nlearn")
