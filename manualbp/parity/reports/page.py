"""A report as one page of words, which the terminal and Markdown show in the same order.

Markdown is as TensorBoard's text page and GitHub render it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from manualbp.parity.record import GradientReport
from manualbp.parity.reports import gradient_words, training_words
from manualbp.parity.reports.words import Section, numeric_columns
from manualbp.parity.training_record import Report, check_report


class Page(NamedTuple):
    """Everything that is said of a report, in its order."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sections: tuple[Section, ...]
    setup: dict[str, str]
    verdict: str


def page(report: Report, *, verbose: bool = False) -> Page:
    """What there is to say; ``verbose`` adds every seed, every planted fault and the setup.

    Raises:
        TypeError: it is no report.
    """
    check_report(report)
    words = _words(report)
    return Page(
        f"{report.candidate} against {report.reference}",
        words.COLUMNS,
        tuple(words.rows(report, verbose=verbose)),
        tuple(words.sections(report, verbose=verbose)),
        dict(report.setup) if verbose else {},
        verdict_sentence(report),
    )


def explain(report: Report) -> str:
    """What is wrong, in plain text: every wrong tensor, power, and the verdict as the last line."""
    said = page(report)
    lines = [said.title]
    for section in said.sections:
        lines += ["", section.heading, *(f"  {line}" for line in section.lines)]
    return "\n".join([*lines, "", said.verdict])


def verdict_sentence(report: Report) -> str:
    """The verdict and its reason in one sentence."""
    return f"{report.verdict}: {_words(report).reason(report)}"


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
        table = markdown_table(["what", "value"], list(report.setup.items()))
        parts.append("### Setup\n\n" + table)
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table, numbers to the right.

    Raises:
        ValueError: a row has another length than ``columns``.
    """
    aligns = ["---:" if numeric else "---" for numeric in numeric_columns(columns, rows)]
    lines = [columns, aligns, *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _words(report: Report) -> ModuleType:
    return gradient_words if isinstance(report, GradientReport) else training_words


def _plain(line: str) -> str:
    """A line whose brackets, stars and underscores Markdown prints as they are."""
    marked = re.sub(r"([\\`*_\[\]|#])", r"\\\1", line)
    return html.escape(marked, quote=False).replace("\n", " ")


def _cell(cell: str) -> str:
    return "<br>".join(map(_plain, cell.split("\n")))
