"""What kind of wrong a gradient is, and where to look, in words.

Every tensor that differs gets one Finding: the first kind of wrong that explains it, and whether
the fault is its layer's own or came in.
"""

from __future__ import annotations

from collections.abc import Mapping

from manualbp.parity.arms.forward import LOSS
from manualbp.parity.diagnosis.before_numbers import before_numbers
from manualbp.parity.diagnosis.blame import blame
from manualbp.parity.diagnosis.evidence import Evidence, Pattern, Suspect
from manualbp.parity.diagnosis.kinds import RECOGNIZERS
from manualbp.parity.diagnosis.wording import title
from manualbp.parity.record import Finding, TensorReport

FORWARD_FIRST = "make the forward agree first; then compare again"


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """One Finding for every tensor that differs, in backward order."""
    place = {name: i for i, name in enumerate(evidence.order)}
    differing = [report for report in evidence.reports if not report.agrees]
    differing.sort(key=lambda r: place.get(r.name, -1 if not r.name.endswith(".grad") else 1 << 30))
    patterns = {report.name: recognize(report, evidence) for report in differing}
    forward = [name for name in patterns if name == LOSS or name.startswith("output")]
    if forward:
        return tuple(_after_forward(name, patterns[name], name in forward) for name in patterns)
    return tuple(_finding(name, patterns, evidence) for name in patterns)


def recognize(report: TensorReport, evidence: Evidence) -> Pattern:
    """The most specific kind of wrong that explains a tensor that differs."""
    found = before_numbers(report, evidence)
    if found is not None:
        return found
    suspect = Suspect.of(report.name, evidence)
    if suspect is None:
        return Pattern("unknown", report.reason, f"look at {report.name} in both arms")
    return next(pattern for ask in RECOGNIZERS if (pattern := ask(suspect)))


def _after_forward(name: str, pattern: Pattern, forward: bool) -> Finding:
    """A finding where the forward differs: then nobody can be blamed for a gradient."""
    words = pattern.words
    if forward and pattern.kind != "raised":
        words = f"the forward differs already: gradients cannot be judged until it agrees ({words})"
    step = pattern.step if pattern.kind in ("raised", "structure") else FORWARD_FIRST
    return Finding(name, pattern.kind, words, None, step)


def _finding(name: str, patterns: Mapping[str, Pattern], evidence: Evidence) -> Finding:
    pattern = patterns[name]
    if not name.endswith(".grad"):
        return Finding(name, pattern.kind, pattern.words, None, pattern.step)
    found = blame(name, patterns, evidence)
    step = f"mend {found.first} first; then compare again" if found.first else pattern.step
    if found.between:
        own = f"the backward of {title(evidence.layers.get(name))}"
        step = step.replace(own, found.between)
    return Finding(name, pattern.kind, f"{pattern.words}; {found.words}", found.here, step)
