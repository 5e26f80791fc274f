"""A report as one page, which report.py shows in the terminal and as Markdown."""

from __future__ import annotations

from typing import NamedTuple

from manualbp.parity.record import GradientReport, TrainingReport
from manualbp.parity.reports.training_words import (
    TRAINING_COLUMNS,
    training_reason,
    training_row,
    training_sections,
)
from manualbp.parity.reports.words import (
    GRADIENT_COLUMNS,
    Section,
    gradient_reason,
    gradient_rows,
    gradient_sections,
)


class Page(NamedTuple):
    """Everything that is said of a report, in the order in which it is said."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sections: tuple[Section, ...]
    setup: dict[str, str]
    verdict: str


def page(report: GradientReport | TrainingReport, *, verbose: bool = False) -> Page:
    """What there is to say; ``verbose`` adds every seed, every planted fault and the setup.

    Raises:
        TypeError: it is no report.
    """
    columns: tuple[str, ...]
    if isinstance(report, GradientReport):
        columns, rows = GRADIENT_COLUMNS, gradient_rows(report, verbose=verbose)
        sections = gradient_sections(report, verbose=verbose)
    elif isinstance(report, TrainingReport):
        columns, rows = TRAINING_COLUMNS, [training_row(run) for run in report.runs]
        sections = [s for run in report.runs for s in training_sections(run, verbose=verbose)]
    else:
        raise TypeError(
            f"expected a GradientReport or a TrainingReport, got {type(report).__name__}; "
            "pass what compare_gradients or compare_training returned"
        )
    title = f"{report.candidate} against {report.reference}"
    setup = dict(report.setup) if verbose else {}
    return Page(title, columns, tuple(rows), tuple(sections), setup, verdict_sentence(report))


def explain(report: GradientReport | TrainingReport) -> str:
    """What is wrong, in plain text: every offender, power, and the verdict as the last line."""
    said = page(report)
    lines = [said.title]
    for section in said.sections:
        lines += ["", section.heading, *(f"  {line}" for line in section.lines)]
    return "\n".join([*lines, "", said.verdict])


def verdict_sentence(report: GradientReport | TrainingReport) -> str:
    """The verdict in one sentence."""
    if isinstance(report, GradientReport):
        return f"{report.verdict}: {gradient_reason(report)}"
    return f"{report.verdict}: {training_reason(report)}"
