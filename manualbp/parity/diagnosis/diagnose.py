"""What kind of wrong a gradient is, and where to look, in words.

Every tensor that differs gets one Finding: the first recognizer that explains it (kinds.py by its
own numbers, batch_kinds.py by single rows), and whether the fault is its layer's own or came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from manualbp.parity.diagnosis.evidence import Evidence, Pattern, Suspect, title
from manualbp.parity.diagnosis.kinds.rows import BY_ROW, ROWS_AT_LARGE
from manualbp.parity.diagnosis.kinds.values import LOCAL, SPECIFIC, rounding, unknown
from manualbp.parity.diagnosis.row_probes import Batch
from manualbp.parity.judge.tolerance import to_double
from manualbp.parity.record import Finding, TensorReport

# Kinds that say too little to tell whether two wrongs are the same one.
VAGUE = ("unknown", "rounding")
LOSS = "the gradient that the loss sends back"
FORWARD_FIRST = "make the forward agree first; then compare again"
# How a verdict without numbers begins, the kind of wrong that is, and what to do.
VERDICTS = (
    ("the candidate raised", "raised", "run the candidate by itself and read the traceback"),
    ("structure ", "structure", "return the reference's nesting of tuples, lists and dicts"),
    ("written over", "written over", "clone before writing in place"),
    ("missing in the reference", "extra", "freeze that parameter, or map its name to the "
     "reference's with parameters="),
    ("the reference itself", "reference", "compare in float64, or with a reference that is "
     "deterministic"),
    ("the oracle is", "oracle", "one of the two is wrong: the oracle, or the reference itself"),
)  # fmt: skip


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """One Finding for every tensor that differs, the first offender in backward order first."""
    place = {name: i for i, name in enumerate(evidence.order)}
    differing = [report for report in evidence.reports if not report.agrees]
    differing.sort(key=lambda r: place.get(r.name, -1 if not r.name.endswith(".grad") else 1 << 30))
    batch = Batch(evidence)
    patterns = {report.name: recognize(report, evidence, batch) for report in differing}
    forward = [name for name in patterns if name == "loss" or name.startswith("output")]
    if forward:
        return tuple(_after(name, patterns[name], name in forward) for name in patterns)
    return tuple(_finding(name, patterns, evidence) for name in patterns)


def recognize(report: TensorReport, evidence: Evidence, batch: Batch | None = None) -> Pattern:
    """The most specific kind of wrong that explains a tensor that differs."""
    found = _without_numbers(report, evidence)
    if found is not None:
        return found
    suspect = Suspect.of(report.name, evidence)
    if suspect is None:
        return Pattern("unknown", report.reason, f"look at {report.name} in both arms")
    rows = batch or Batch(evidence)
    gradient = report.name.endswith(".grad")  # an output has nothing to probe
    asked: list[Callable[[], Pattern | None]] = [partial(r, suspect) for r in SPECIFIC]
    asked += [partial(r, suspect, rows) for r in BY_ROW if gradient]
    asked += [partial(r, suspect) for r in LOCAL]
    asked += [partial(r, suspect, rows) for r in ROWS_AT_LARGE if gradient]
    asked += [partial(rounding, suspect)]
    return next((found for ask in asked if (found := ask())), None) or unknown(suspect)


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
    if not c.is_floating_point():
        return None
    alike = to_double(c) == to_double(o)  # an infinity where a mask says so
    if not (o.cpu().isfinite() | alike).all():
        step = "compare with inputs for which the reference is finite in float64"
        return Pattern("reference", report.reason, step)
    broken = ~(c.cpu().isfinite() | alike)
    if broken.any():
        what = "NaN" if c.isnan().any() else "infinite"
        first = [int(i) for i in broken.nonzero()[0]]
        words = f"{int(broken.sum())} of {c.numel()} elements {what}, first at {first}"
        step = f"look for a division by zero or an overflow in the backward of {layer}"
        return Pattern("not finite", words, step)
    return None


def _shape(name: str, c: Tensor, o: Tensor, layer: str, rows: int | None) -> Pattern:
    """Another shape, and how it may have come about."""
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


def _after(name: str, pattern: Pattern, forward: bool) -> Finding:
    """A finding where the forward differs: nothing can be said of whose fault a gradient is."""
    words = pattern.words
    if forward and pattern.kind != "raised":
        words = f"the forward differs already: gradients cannot be judged until it agrees ({words})"
    step = pattern.step if pattern.kind in ("raised", "structure") else FORWARD_FIRST
    return Finding(name, pattern.kind, words, None, step)


def _finding(name: str, patterns: Mapping[str, Pattern], evidence: Evidence) -> Finding:
    pattern = patterns[name]
    if not name.endswith(".grad"):
        return Finding(name, pattern.kind, pattern.words, None, pattern.step)
    here, blamed, first = _blame(name, patterns, evidence)
    step = f"mend {first} first; then compare again" if first else pattern.step
    place = blamed.partition("the fault is in ")[2]
    if place.startswith("the step from"):
        layer = title(evidence.layers.get(name))
        step = step.replace(f"the backward of {layer}", place)
    return Finding(name, pattern.kind, f"{pattern.words}; {blamed}", here, step)


def _blame(
    name: str, patterns: Mapping[str, Pattern], evidence: Evidence
) -> tuple[bool | None, str, str]:
    """Whose fault it is: (here, the words for it, what to mend before this one).

    Watched, where ``incoming`` knows the layer. Else by what is known of the layer's other
    gradients, made of the same delta, and of the layers nearer to the output.
    """
    own, order = evidence.layers.get(name, ""), evidence.order
    layer = title(own)
    beside = [n for n in order if n != name and evidence.layers.get(n, "") == own]
    before = [n for n in order[: order.index(name) if name in order else None] if n not in beside]
    arrived = None if evidence.incoming is None else evidence.incoming.get(own)
    right = any(n not in patterns and bool(evidence.exact[n].any()) for n in beside)
    if arrived or (arrived is None and right):
        return True, f"what arrives at {layer} is right; the fault is in its own backward", ""
    if patterns[name].kind in VAGUE:
        told = [n for n in beside if n in patterns and patterns[n].kind not in VAGUE]
        if told:
            return None, f"made of the same delta as {told[0]}: look at that first", told[0]
    if "loss" in evidence.exact and arrived is None and _throughout(patterns, order):
        return False, f"every gradient is wrong in this way: look at {LOSS}", LOSS
    earlier = [n for n in before if n in patterns]
    alike = [n for n in earlier if patterns[n].key == patterns[name].key
             and patterns[n].kind not in VAGUE]  # fmt: skip
    if earlier:
        at = title(evidence.layers.get((alike or earlier)[0]))
        if alike or arrived is False:
            return False, f"what arrives at {layer} is wrong already: look at {at} first", at
        return None, f"{at} differs as well and is nearer to the output: look at it first", at
    if before:
        passed = title(evidence.layers.get(before[-1]))
        step = f"the step from {passed} to {layer}"
        words = f"everything nearer to the output agrees; the fault is in {step}"
        return arrived is None, words, step if patterns[name].kind in VAGUE else ""
    if arrived is False:
        return False, f"what arrives at {layer} is wrong already: look at {LOSS}", LOSS
    if "loss" not in evidence.exact:
        return True, f"the output's gradient is given; the fault is in {layer} or behind it", ""
    return None, f"nothing nearer to the output is compared: it is {layer}'s fault, or {LOSS}", ""


def _throughout(patterns: Mapping[str, Pattern], order: tuple[str, ...]) -> bool:
    """Whether all gradients are wrong, and in the same way that says something."""
    keys = {patterns[n].key if n in patterns else ("agrees", None) for n in order}
    return len(order) > 1 and len(keys) == 1 and next(iter(keys))[0] not in (*VAGUE, "agrees")
