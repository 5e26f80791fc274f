"""The README's tables of speed, made of the record: ``python -m comparisons.speed.readme``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from comparisons.speed import record
from comparisons.speed.results import Result
from comparisons.speed.tables import by_input, steps
from comparisons.speed.workloads import TABLE

ROOT = Path(__file__).parents[2]
README, RECORD = ROOT / "README.md", ROOT / "comparisons/results/speed/speed.json"
# The tables stand between these lines of the README.
BEGIN, END = "<!-- speed: made of the record, see CONTRIBUTING.md -->", "<!-- end of speed -->"


def text(results: Sequence[Result]) -> str:
    """The rows in short, the means and the worst cells, then derivatives by the input."""
    rows = [result for result in results if result.part in TABLE]
    first, *means = steps.in_short(rows), *steps.means(results)
    if found := by_input.rows_of(results):
        means += [by_input.in_short(found), by_input.means(found)]
    parts = [first.markdown(), *(f"**{each.title}**\n\n{each.markdown()}" for each in means)]
    return "\n\n".join(parts)


def updated(readme: str, results: Sequence[Result]) -> str:
    """The README with these results in the place of what stands there.

    Raises:
        ValueError: it has no such place, or more than one.
    """
    between = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?=\n\n{re.escape(END)})", re.DOTALL)
    if len(between.findall(readme)) != 1:
        raise ValueError(f"expected one place between {BEGIN} and {END}, got another number")
    return between.sub(lambda _: text(results), readme)


if __name__ == "__main__":
    found = record.from_record(record.read(RECORD))
    README.write_text(updated(README.read_text(), found))
