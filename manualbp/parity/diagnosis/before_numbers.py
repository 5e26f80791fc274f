"""What is wrong before any subtraction: nothing there, another shape or dtype, NaN."""

from __future__ import annotations

from torch import Tensor

from manualbp.parity.bits import to_double
from manualbp.parity.diagnosis.evidence import Evidence, Pattern
from manualbp.parity.diagnosis.wording import title
from manualbp.parity.record import TensorReport

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


def before_numbers(report: TensorReport, evidence: Evidence) -> Pattern | None:
    """The kind of wrong that is known without numbers; None where numbers have to be asked."""
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
