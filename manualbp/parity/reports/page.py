"""A report as one page of words, which the terminal and Markdown show in the same order."""

from __future__ import annotations

from typing import NamedTuple

from manualbp.parity.record import GradientReport
from manualbp.parity.reports.gradient_words import (
    GRADIENT_COLUMNS,
    gradient_reason,
    gradient_rows,
    gradient_sections,
)
from manualbp.parity.reports.training_words import (
    TRAINING_COLUMNS,
    training_reason,
    training_row,
    training_sections,
)
from manualbp.parity.reports.words import Section
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
    columns: tuple[str, ...]
    if isinstance(report, GradientReport):
        columns, rows = GRADIENT_COLUMNS, gradient_rows(report, verbose=verbose)
        sections = gradient_sections(report, verbose=verbose)
    else:
        columns, rows = TRAINING_COLUMNS, [training_row(run) for run in report.runs]
        sections = [s for run in report.runs for s in training_sections(run, verbose=verbose)]
    title = f"{report.candidate} against {report.reference}"
    setup = dict(report.setup) if verbose else {}
    return Page(title, columns, tuple(rows), tuple(sections), setup, verdict_sentence(report))


def explain(report: Report) -> str:
    """What is wrong, in plain text: every wrong tensor, power, and the verdict as the last line."""
    said = page(report)
    lines = [said.title]
    for section in said.sections:
        lines += ["", section.heading, *(f"  {line}" for line in section.lines)]
    return "\n".join([*lines, "", said.verdict])


def verdict_sentence(report: Report) -> str:
    """The verdict and its reason in one sentence."""
    if isinstance(report, GradientReport):
        return f"{report.verdict}: {gradient_reason(report)}"
    return f"{report.verdict}: {training_reason(report)}"
