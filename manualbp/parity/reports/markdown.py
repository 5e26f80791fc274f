"""Reports and tables in Markdown, as TensorBoard's text page and GitHub render it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from manualbp.parity.reports.page import page
from manualbp.parity.reports.words import numeric_columns
from manualbp.parity.training_record import Report


def markdown_report(report: Report) -> str:
    """The verdict first, then the table, the words, and what was run.

    Raises:
        TypeError: it is no report.
    """
    said = page(report)
    parts = [f"## {_plain(said.title)}", f"**{_plain(said.verdict)}**"]
    if said.rows:
        parts.append(markdown_table([c.replace("\n", " ") for c in said.columns], said.rows))
    for section in said.sections:
        lines = "\n".join(f"- {_plain(line)}" for line in section.lines)
        parts.append(f"### {_plain(section.heading)}\n\n{lines}".rstrip())
    if report.setup:
        rows = [[name, value] for name, value in report.setup.items()]
        parts.append("### Setup\n\n" + markdown_table(["what", "value"], rows))
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table, numbers to the right.

    Raises:
        ValueError: a row has another length than ``columns``.
    """
    aligns = ["---:" if numeric else "---" for numeric in numeric_columns(columns, rows)]
    lines = [columns, aligns, *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _plain(line: str) -> str:
    """A line whose brackets, stars and underscores Markdown prints as they are."""
    marked = re.sub(r"([\\`*_\[\]|#])", r"\\\1", line)
    return html.escape(marked, quote=False).replace("\n", " ")


def _escape(cell: str) -> str:
    return "<br>".join(map(_plain, cell.split("\n")))
