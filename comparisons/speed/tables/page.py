"""All tables of a record, for the terminal and for speed.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comparisons import machine
from comparisons.output import Table, markdown_values
from comparisons.speed.results import Result
from comparisons.speed.tables import by_input, steps
from comparisons.speed.workloads import BUSY_PART, TABLE

SWEEPS = {
    "batch": "Batch sweep",
    "depth": "Depth sweep, hidden layers of one width",
    "width": "Width sweep",
    "dtype": "Other dtypes",
    "gpu": "What a GPU is for, and what leaves it idle",
}


def of(results: Sequence[Result], brief: bool = False) -> list[Table]:
    """Those of the rows, a compact one of every sweep, and means; without what was not measured.

    Brief is for terminals: without all times and all spreads of the rows, which are wide.
    """
    rows = [result for result in results if result.part in TABLE]
    found = steps.of_rows(rows, brief) if rows else []
    for part, title in SWEEPS.items():
        swept = [result for result in results if result.part == part]
        found += [steps.sweep(title, swept)] if swept else []
    found += [steps.busy(under)] if (under := [r for r in results if r.part == BUSY_PART]) else []
    return found + steps.means(results) + by_input.of(results, brief)


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
