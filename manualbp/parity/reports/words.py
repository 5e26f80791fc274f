"""What a comparison of gradients found, in words; and the words that trainings share with it.

Whoever shows a report takes its sentences from here, so a terminal, a pull request, a CI server and
TensorBoard say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from manualbp.parity.record import (
    AGREE,
    DIFFER,
    Check,
    Finding,
    GradientReport,
    PowerReport,
    TensorReport,
)

# So many gradients' smallest visible errors are listed, the weakest first.
LISTED = 6


class Section(NamedTuple):
    """A heading and what stands under it."""

    heading: str
    lines: tuple[str, ...]


GRADIENT_COLUMNS = (
    "tensor", "shape", "candidate\nerror", "reference\nerror", "allowed", "beyond\nlimit",
    "ULP", "bit-equal", "verdict", "worst\nseed",
)  # fmt: skip


def gradient_rows(report: GradientReport, *, verbose: bool = False) -> list[tuple[str, ...]]:
    """One row per tensor, its worst seed; ``verbose``: one per tensor and seed."""
    if verbose:
        pairs = [(tensor, check) for check in report.checks for tensor in check.tensors]
    else:
        pairs = [(tensor, _check_of(report, tensor)) for tensor in report.tensors]
    return [
        (
            t.name, "x".join(map(str, t.shape)) or "scalar", scientific(t.candidate_error),
            scientific(t.reference_error), scientific(t.allowed),
            "-" if math.isnan(t.candidate_error) else str(t.differing),
            "-" if t.ulp is None else str(t.ulp), "yes" if t.bit_identical else "no",
            AGREE if t.agrees else DIFFER, str(check.seed),
        )
        for t, check in pairs
    ]  # fmt: skip


def gradient_sections(report: GradientReport, *, verbose: bool = False) -> list[Section]:
    """Every offender, first offender first; then power, and where to run it again."""
    offenders, wrong = _offenders(report), {tensor.name for tensor in report.differing}
    sections = [
        Section(f"{number}. {offence(tensor, finding)}", _offender_lines(report, tensor, finding))
        for number, (tensor, finding) in enumerate(offenders, start=1)
    ]
    if report.power:
        right = {n: d for n, d in report.power.smallest.items() if n not in wrong}
        power = replace(report.power, smallest=right)  # of a wrong gradient any change is seen
        sections.append(Section("Power", power_lines(power, verbose=verbose)))
    if report.repro:
        sections.append(Section("Run it again", (report.repro,)))
    return sections


def finding_lines(finding: Finding) -> list[str]:
    """What to do next; whose fault it is stands in the finding's own words."""
    return [f"next: {finding.next_step}"] if finding.next_step else []


def numbers(tensor: TensorReport) -> str:
    """``3 of 24 elements; worst [1, 0]: got -2.5, expected -2.4 within 1.7e-05``."""
    if tensor.worst is None:
        return tensor.reason
    w = tensor.worst
    seen = (
        f"{tensor.differing} of {math.prod(tensor.shape)} elements; worst {list(w.index)}: got "
        f"{w.got:.9g}, expected {w.expected:.9g} within {w.limit:.1e}"
    )
    if seen in tensor.reason or not tensor.reason:
        return tensor.reason or seen
    return f"{seen}; {tensor.reason}"


def power_lines(power: PowerReport, *, verbose: bool = False) -> tuple[str, ...]:
    """What was planted and seen, the smallest error seen, and why agreement is refused."""
    faults, caught = power.faults, power.caught
    smallest = sorted(power.smallest.items(), key=lambda item: -item[1])
    shown = smallest if verbose else smallest[:LISTED]
    listed = ", ".join(
        f"{name} {scientific(value)}" if value < math.inf else f"{name} none"
        for name, value in shown
    )
    rest = len(smallest) - len(shown)
    seen = f"; smallest relative error seen: {listed}" if listed else ""
    lines = [
        f"caught {len(caught)} of {len(faults)} planted faults{seen}"
        + (f", and less in {rest} more" if rest else "")
    ]
    for fault in faults:
        where = [p.tensor for p in power.planted if p.fault == fault and not p.caught]
        if where:
            lines.append(f"not caught: {fault} in {some(where)}")
        elif verbose:
            places = sum(p.fault == fault for p in power.planted)
            lines.append(f"caught: {fault} in {count(places, 'gradient')}")
    return (*lines, *(f"agreement is refused: {reason}" for reason in power.missing))


def some(names: Iterable[str], count: int = 4) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def scientific(value: float | None) -> str:
    """A number short enough for a table cell: ``1.2e-08``, ``0``, ``nan``, ``-`` for None."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def gradient_reason(report: GradientReport) -> str:
    """Why the verdict is what it is, in one clause."""
    total = len(report.tensors)
    if report.differing:
        tensor, finding = _offenders(report)[0]
        first = offence(tensor, finding)
        if tensor and not finding:
            first = f"{tensor.name}: {numbers(tensor)}"
        return f"{len(report.differing)} of {count(total, 'tensor')}; look first at {first}"
    if not report.agrees:
        missing = report.power.missing if report.power else ()
        why = missing[0] if missing else "no tensor was compared"
        return f"nothing differs in {count(total, 'tensor')}, but a fault would not show: {why}"
    how = "in every bit" if report.bit_identical else "within rounding"
    asked = "" if report.power else "; power was not asked for"
    return f"{count(total, 'tensor')} in {count(len(report.checks), 'check')}, {how}{asked}"


def _offenders(report: GradientReport) -> list[tuple[TensorReport | None, Finding | None]]:
    """Every finding with its tensor, in the findings' order; then what differs without one."""
    differing = {tensor.name: tensor for tensor in report.differing}
    found = [(differing.get(finding.tensor), finding) for finding in report.findings]
    named = {finding.tensor for finding in report.findings}
    return [*found, *((tensor, None) for name, tensor in differing.items() if name not in named)]


def offence(tensor: TensorReport | None, finding: Finding | None) -> str:
    """The tensor, and in words what is wrong with it."""
    if finding:
        return f"{finding.tensor}: {finding.words}"
    return f"{tensor.name} differs" if tensor else ""


def _offender_lines(
    report: GradientReport, tensor: TensorReport | None, finding: Finding | None
) -> tuple[str, ...]:
    """What was seen, where the wrong came from, and what to do next."""
    seen = [f"{numbers(tensor)}{_seed(report, tensor)}"] if tensor else []
    return (*seen, *(finding_lines(finding) if finding else ()))


def _seed(report: GradientReport, tensor: TensorReport) -> str:
    seeds = len({check.seed for check in report.checks})
    seed = _check_of(report, tensor).seed
    return f" (seed {seed}, the worst of {seeds})" if seeds > 1 else f" (seed {seed})"


def _check_of(report: GradientReport, tensor: TensorReport) -> Check:
    """The check a tensor's report comes from."""
    return next(c for c in report.checks if any(t is tensor for t in c.tensors))


def count(number: int, noun: str) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
