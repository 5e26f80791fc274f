"""A report as one page of words, which the terminal and Markdown show in the same order."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from manualbp.parity.record import GradientReport
from manualbp.parity.reports import gradient_words, training_words
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


def _words(report: Report) -> ModuleType:
    return gradient_words if isinstance(report, GradientReport) else training_words
