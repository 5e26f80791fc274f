"""What a comparison of gradients found, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from manualbp.parity.record import AGREE, Check, Finding, GradientReport, Situation, TensorReport
from manualbp.parity.reports.words import (
    Section,
    count,
    next_lines,
    numbers,
    power_lines,
    scientific,
    wrong_in_words,
)

COLUMNS = (
    "tensor", "shape", "candidate\nerror", "reference\nerror", "allowed", "beyond\nlimit",
    "ULP", "equal\nbits", "verdict", "worst\nseed",
)  # fmt: skip


def rows(report: GradientReport, *, verbose: bool = False) -> list[tuple[str, ...]]:
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
            t.verdict, str(check.seed),
        )
        for t, check in pairs
    ]  # fmt: skip


def sections(report: GradientReport, *, verbose: bool = False) -> list[Section]:
    """Every wrong tensor, the first to look at first; then power, and where to run it again."""
    found = []
    for number, (tensor, finding) in enumerate(_wrong_tensors(report), start=1):
        seen = (f"{numbers(tensor)}{_seed(report, tensor)}",) if tensor else ()
        heading = f"{number}. {wrong_in_words(tensor, finding)}"
        found.append(Section(heading, (*seen, *next_lines(finding))))
    if report.situations:
        found.append(Section("Situations", _situations(report.situations)))
    if report.power:
        wrong = {tensor.name for tensor in report.differing}
        right = {n: d for n, d in report.power.smallest.items() if n not in wrong}
        power = replace(report.power, smallest=right)  # of a wrong gradient any change is seen
        found.append(Section("Power", power_lines(power, verbose=verbose)))
    if report.repro:
        found.append(Section("Run it again", (report.repro,)))
    return found


def reason(report: GradientReport) -> str:
    """Why the verdict is what it is, in one clause."""
    total = len(report.tensors)
    if report.differing:
        tensor, finding = _wrong_tensors(report)[0]
        first = wrong_in_words(tensor, finding)
        if tensor and not finding:
            first = f"{tensor.name}: {numbers(tensor)}"
        return f"{len(report.differing)} of {count(total, 'tensor')}; look first at {first}"
    if report.failed:
        failed = report.failed[0]
        return f"every tensor agrees in a plain run; {failed.name}: {failed.words}"
    if report.unjudged:
        tensor = report.unjudged[0]
        return f"{len(report.unjudged)} of {count(total, 'tensor')}; {tensor.name}: {tensor.reason}"
    if not report.agrees:
        missing = report.power.missing if report.power else ()
        why = missing[0] if missing else "no tensor was compared"
        return f"nothing differs in {count(total, 'tensor')}, but a fault would not show: {why}"
    how = "in every bit" if report.bit_identical else "within rounding"
    asked = "" if report.power else "; power was not asked for"
    return f"{count(total, 'tensor')} in {count(len(report.checks), 'check')}, {how}{asked}"


def _wrong_tensors(report: GradientReport) -> list[tuple[TensorReport | None, Finding | None]]:
    """Every finding with its tensor, in the findings' order; then what differs without one."""
    differing = {tensor.name: tensor for tensor in report.differing}
    found = [(differing.get(finding.tensor), finding) for finding in report.findings]
    named = {finding.tensor for finding in report.findings}
    return [*found, *((tensor, None) for name, tensor in differing.items() if name not in named)]


def _situations(situations: Sequence[Situation]) -> tuple[str, ...]:
    """Those that agree in one line, each other one with its words."""
    right = [s.name for s in situations if s.verdict == AGREE]
    others = [f"{s.name}: {s.verdict}, {s.words}" for s in situations if s.verdict != AGREE]
    return (*([f"agree: {', '.join(right)}"] if right else []), *others)


def _seed(report: GradientReport, tensor: TensorReport) -> str:
    seeds = len({check.seed for check in report.checks})
    seed = _check_of(report, tensor).seed
    return f" (seed {seed}, the worst of {seeds})" if seeds > 1 else f" (seed {seed})"


def _check_of(report: GradientReport, tensor: TensorReport) -> Check:
    """The check a tensor's report comes from."""
    return next(c for c in report.checks if any(t is tensor for t in c.tensors))
