"""A report as JUnit XML, which CI servers show: what fails there is what does not agree.

Of gradients: one test case for each tensor and check, for each situation, and one for power. Of
trainings: one for each, and one that says whether every training came to its end. ``NO POWER`` and
``NOT JUDGED`` fail like ``DIFFER``; a situation that is not judged does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from manualbp.parity.record import DIFFER, NO_POWER, NOT_JUDGED, Finding, GradientReport
from manualbp.parity.reports import training_words
from manualbp.parity.reports.page import explain
from manualbp.parity.reports.words import next_lines, numbers, power_lines
from manualbp.parity.training_record import Report, TrainingReport

# What XML 1.0 cannot hold at all, such as a terminal's colour codes in an error message.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Case(NamedTuple):
    """A test case; it passes where ``kind`` is empty."""

    group: str
    name: str
    kind: str = ""
    message: str = ""
    text: str = ""


def junit(report: Report) -> str:
    """The XML, for ``write_junit``.

    Raises:
        TypeError: it is no report.
    """
    said = explain(report)  # refuses what is no report
    cases = gradient_cases(report) if isinstance(report, GradientReport) else training_cases(report)
    failures = sum(bool(case.kind) for case in cases)
    name = f"{report.candidate} against {report.reference}"
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", {"name": "manualbp.parity", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in {"verdict": report.verdict, **report.setup}.items():
        ElementTree.SubElement(properties, "property", name=key, value=value)
    for case in cases:
        names = {"classname": f"{name}.{case.group}", "name": case.name}
        element = ElementTree.SubElement(suite, "testcase", names)
        if case.kind:
            why = {"type": case.kind, "message": case.message}
            ElementTree.SubElement(element, "failure", why).text = case.text
    ElementTree.SubElement(suite, "system-out").text = said
    ElementTree.indent(root)
    body = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", ElementTree.tostring(root, "unicode"))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def gradient_cases(report: GradientReport) -> list[Case]:
    """A case for each tensor of each check, and one for power where it was asked for."""
    findings: dict[str, Finding] = {}
    for finding in report.findings:
        findings.setdefault(finding.tensor, finding)  # the first says what it is
    cases = []
    for check in report.checks:
        for tensor in check.tensors:
            name = f"{tensor.name} [seed {check.seed}]"
            if tensor.agrees:
                cases.append(Case(check.kind, name))
                continue
            found, seen = findings.get(tensor.name), numbers(tensor)
            kind, message = (found.kind, found.words) if found else (DIFFER, seen)
            if tensor.unjudged:
                kind, message = NOT_JUDGED, seen
            text = "\n".join([seen, *next_lines(found)])
            cases.append(Case(check.kind, name, kind, message, text))
    for situation in report.situations:
        kind = DIFFER if situation.verdict == DIFFER else ""
        words = situation.words
        cases.append(Case("situation", situation.name, kind, words, situation.next_step or words))
    missing = report.power.missing if report.power else ()
    if not report.tensors:
        missing = ("no tensor was compared", *missing)
    if report.power or missing:
        lines = power_lines(report.power) if report.power else missing
        cases.append(_power("power", "every standard fault would show", missing, lines))
    return cases


def training_cases(report: TrainingReport) -> list[Case]:
    """A case for each training, and one that each came to its end."""
    cases = []
    for run in report.runs:
        lines = training_words.run_lines(run)
        if run.verdict in (DIFFER, NOT_JUDGED) and not run.lowered:
            kind = "wrong gradient" if run.forced else "drift" if run.outside else NOT_JUDGED
            cases.append(Case("training", run.name, kind, lines[0], "\n".join(lines)))
        else:
            missing = run.power.missing if run.power else ()
            if not run.steps:
                missing = ("no step was completed", *missing)
            cases.append(_power("training", run.name, missing, lines or missing))
    name = "every training came to its end"
    if report.interrupted or not report.runs:
        reason = training_words.reason(report)
        return [*cases, Case("training", name, "interrupted", reason, reason)]
    return [*cases, Case("training", name)]


def _power(group: str, name: str, missing: Sequence[str], lines: Sequence[str]) -> Case:
    """Passes where nothing is missing."""
    if not missing:
        return Case(group, name)
    return Case(group, name, NO_POWER, missing[0], "\n".join(lines))
