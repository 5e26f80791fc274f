"""What kind of wrong a gradient is, and where to look, in words.

Every tensor that differs gets one Finding: the first kind of wrong that explains it, and whether
the fault is its layer's own or came in.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from manualbp.parity.arms.forward import LOSS
from manualbp.parity.bits import to_double
from manualbp.parity.diagnosis.blame import blame
from manualbp.parity.diagnosis.evidence import Evidence, Pattern, Suspect, title
from manualbp.parity.diagnosis.kinds import RECOGNIZERS
from manualbp.parity.record import DIFFER, NOT_JUDGED, Finding, TensorReport

FORWARD_FIRST = "make the forward agree first; then compare again"
# How a verdict without numbers begins, the kind of wrong that is, and what to do.
VERDICTS = (
    ("the candidate raised", "raised", "run the candidate by itself and read the traceback"),
    ("structure ", "structure", "return the reference's nesting of tuples, lists and dicts"),
    ("written over", "written over", "clone before writing in place"),
    ("missing in the reference", "extra", "freeze that parameter, or map its name to the "
     "reference's with parameters="),
    ("the oracle is", "oracle", "one of the two is wrong: the oracle, or the reference itself"),
)  # fmt: skip


NOT_FINITE = "choose inputs at which the reference is finite"
NO_JUDGE = "take a reference that is deterministic and keeps the dtype of its inputs"


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """One Finding for every tensor that differs, in backward order; then what is not judged."""
    place = {name: i for i, name in enumerate(evidence.order)}
    differing = [report for report in evidence.reports if report.verdict == DIFFER]
    differing.sort(key=lambda r: place.get(r.name, -1 if not r.name.endswith(".grad") else 1 << 30))
    patterns = {report.name: recognize(report, evidence) for report in differing}
    forward = [name for name in patterns if name == LOSS or name.startswith("output")]
    found = [
        _after_forward(name, patterns[name], name in forward)
        if forward else _finding(name, patterns, evidence)
        for name in patterns
    ]  # fmt: skip
    return (*found, *(_not_judged(report) for report in evidence.reports if report.unjudged))


def recognize(report: TensorReport, evidence: Evidence) -> Pattern:
    """The most specific kind of wrong that explains a tensor that differs."""
    found = _without_numbers(report, evidence)
    if found is not None:
        return found
    suspect = Suspect.of(report.name, evidence)
    if suspect is None:
        return Pattern("unknown", report.reason, f"look at {report.name} in both arms")
    return next(pattern for ask in RECOGNIZERS if (pattern := ask(suspect)))


def _not_judged(report: TensorReport) -> Finding:
    step = NOT_FINITE if "NaN or infinite" in report.reason else NO_JUDGE
    return Finding(report.name, NOT_JUDGED, report.reason, None, step)


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


def _without_numbers(report: TensorReport, evidence: Evidence) -> Pattern | None:
    """What is wrong before any subtraction: nothing there, another shape or dtype, NaN."""
    for begins, kind, step in VERDICTS:
        if report.reason.startswith(begins):
            return Pattern(kind, report.reason, step)
    name, layer = report.name, title(evidence.layers.get(report.name))
    c, o = evidence.candidate.get(name), evidence.exact.get(name)
    if o is None:
        return None
    if c is None:
        words = "there is no gradient: returned None, detached, or never asked for"
        return Pattern("missing", words, f"return a gradient for {name} in the backward of {layer}")
    if c.shape != o.shape:
        return _shape(name, c, o, layer, evidence.rows)
    if c.dtype != report.dtype and report.dtype is not None:
        step = f"compute {name} in its parameter's dtype, or cast it back"
        return Pattern("dtype", f"{c.dtype} in place of {report.dtype}", step)
    return _not_finite(c, o, report, layer) if c.is_floating_point() else None


def _not_finite(c: Tensor, o: Tensor, report: TensorReport, layer: str) -> Pattern | None:
    alike = to_double(c) == to_double(o)  # an infinity where a mask says so
    if not (o.cpu().isfinite() | alike).all():
        step = "compare with inputs for which the reference is finite in float64"
        return Pattern("reference", report.reason, step)
    broken = ~(c.cpu().isfinite() | alike)
    if not broken.any():
        return None
    what = "NaN" if c.isnan().any() else "infinite"
    first = [int(i) for i in broken.nonzero()[0]]
    words = f"{int(broken.sum())} of {c.numel()} elements {what}, first at {first}"
    step = f"look for a division by zero or an overflow in the backward of {layer}"
    return Pattern("not finite", words, step)


def _shape(name: str, c: Tensor, o: Tensor, layer: str, rows: int | None) -> Pattern:
    """Another shape, and where it may come from."""
    got, expected = tuple(c.shape), tuple(o.shape)
    words, step = f"shape {got} in place of {expected}", f"return {expected} for {name}"
    squeezed = [tuple(n for n in shape if n != 1) for shape in (got, expected)]
    if c.dim() > o.dim() and got[c.dim() - o.dim() :] == expected and got[0] == rows:
        words += ": not summed over the batch"
        step = f"sum {name} over the batch in the backward of {layer}"
    elif squeezed[0] == squeezed[1]:
        words += ": a dimension of length 1 too many or too few, as keepdim leaves it"
    elif got == expected[::-1]:
        words += ": the transpose"
        step = f"return delta^T a in the backward of {layer}, not a^T delta"
    elif c.numel() == o.numel():
        words += ": as many numbers in another shape"
    elif o.dim() > c.dim() and expected[o.dim() - c.dim() :] == got:
        words += f": summed over {o.dim() - c.dim()} dimension(s) too many"
    return Pattern("shape", words, step)
