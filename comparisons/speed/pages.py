"""The tables of speed in README.md and docs/speed.md, made of the record.

``python -m comparisons.speed.pages`` writes them anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from comparisons.output import Table
from comparisons.speed import record
from comparisons.speed.arms.arm import AUTOGRAD, DERIVATIVES, EXACT, FAST, FUSED, NO_GRAPH
from comparisons.speed.results import Result, geometric_mean, worst
from comparisons.speed.tables import by_input, steps
from comparisons.speed.tables.cells import speed_up
from comparisons.speed.workloads import TABLE, TRAINING

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "comparisons/results/speed/speed.json"
# The tables of a page stand between these lines.
BEGIN, END = "<!-- speed: made of the record, see CONTRIBUTING.md -->", "<!-- end of speed -->"
OURS = {
    EXACT: "Sequential, with autograd's bits: the default",
    FAST: "Sequential in fast mode",
    FUSED: "FusedLoss",
    NO_GRAPH: "FusedLoss without a graph",
}


def in_short(results: Sequence[Result]) -> str:
    """README.md: how many times as fast as PyTorch ours are, in the mean and at worst."""
    (rows, cells), by = steps.rows_and_cells(results, TRAINING), by_input.rows_of(results)
    lines = [_line(words, arm, rows, cells) for arm, words in OURS.items()]
    lines.append(_line("derivatives by the input, over nested autograd", DERIVATIVES, by, by))
    return Table("", ["over eager PyTorch", "mean", "worst cell"], lines).markdown()


def _line(words: str, arm: str, rows: Sequence[Result], cells: Sequence[Result]) -> list[str]:
    slowest = worst(cells, arm)
    mean = geometric_mean(rows, (AUTOGRAD,), arm)
    if mean is None or slowest is None:
        raise ValueError(f"expected a record with the arm {arm!r}, got none; measure it as well")
    return [words, f"{mean:.2f}", f"{speed_up(arm, slowest)} of {len(cells)}"]


def in_full(results: Sequence[Result]) -> str:
    """docs/speed.md: the rows, the means and the worst cells, then derivatives by the input."""
    rows = [result for result in results if result.part in TABLE]
    first, *means = steps.in_short(rows), *steps.means(results)
    if found := by_input.rows_of(results):
        means += [by_input.in_short(found), by_input.means(found)]
    parts = [first.markdown(), *(f"**{each.title}**\n\n{each.markdown()}" for each in means)]
    return "\n\n".join(parts)


PAGES: dict[Path, Callable[[Sequence[Result]], str]] = {
    ROOT / "README.md": in_short,
    ROOT / "docs/speed.md": in_full,
}


def updated(page: str, tables: str) -> str:
    """The page with these tables in the place of what stands there.

    Raises:
        ValueError: it has no such place, or more than one.
    """
    between = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?=\n\n{re.escape(END)})", re.DOTALL)
    if len(between.findall(page)) != 1:
        raise ValueError(f"expected one place between {BEGIN} and {END}, got another number")
    return between.sub(lambda _: tables, page)


if __name__ == "__main__":
    found = record.from_record(record.read(RECORD))
    for path, tables in PAGES.items():
        path.write_text(updated(path.read_text(), tables(found)))
