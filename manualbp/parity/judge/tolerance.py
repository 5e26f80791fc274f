"""When two tensors agree. The one place that decides.

    rms(c - o) <= FACTOR * rms(e) +     RMS_FLOOR * eps * rms(s)     the tensor
    |c - o|_i  <= FACTOR * e_i    + ELEMENT_FLOOR * eps * s_i  + TENSOR_FLOOR * eps * rms(s)
                                                                     each element

c   candidate
o   oracle: a float64 run of the reference
e   the reference's own error in the working dtype, at least |r - o|
s   size of the sums an element comes from: |o|, or more where large terms leave a small rest
eps of the working dtype

The yardstick is the reference's own distance from float64. No tolerance is set by hand, and the
rule has no scale: multiply a gradient by 1e-9 and the verdict stays the same. A missing tensor,
another shape or dtype, and NaN are decided before any number is compared. An infinity agrees where
all three runs have the same one. A gradient of 0 has s = 0: then only 0 agrees, or what is below
the smallest normal number, since denormals are rounded to their own step.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manualbp.parity.bits import (
    UNREACHABLE,
    bit_identical,
    differing_bits,
    largest,
    rms,
    to_double,
    ulp_distance,
)
from manualbp.parity.record import TensorReport, WorstElement

# How much larger than the reference's error the candidate's may be: both are draws of rounding.
FACTOR = 2.0
# What rounding may do to a whole tensor, in eps, where the reference happens to be exact.
RMS_FLOOR = 2.0
# The same for one element, the worst of many.
ELEMENT_FLOOR = 16.0
# Another way to the same result may add terms as large as the tensor's others and take them away
# again. What is left of them is an eps of the whole tensor, so no element is judged more finely.
TENSOR_FLOOR = 1.0
# A reference that is itself this far from float64, relative to its sums, is no yardstick.
REFERENCE_LIMIT = 0.25


def compare_tensors(
    name: str,
    candidate: Tensor | None,
    reference: Tensor | None,
    oracle: Tensor | NDArray[Any] | None,
    *,
    sums: Tensor | None = None,
    noise: Tensor | None = None,
    exact: bool = False,
) -> TensorReport:
    """Hold ``candidate`` against ``reference``, both judged by their distance to ``oracle``.

    ``sums`` and ``noise`` are s and e above, float64 and of the oracle's shape. Without them one
    size, the rms, stands for the whole tensor: right for the large elements, but blind to a fault
    in elements far smaller. ``exact`` asks for the reference's bits. Tensors that are not
    floating point must always be equal.

    Raises:
        ValueError: the oracle is missing or of another shape than the reference.
    """
    if candidate is None or reference is None:
        return _missing(name, candidate, reference)
    shape, dtype = tuple(reference.shape), reference.dtype
    if tuple(candidate.shape) != shape:
        reason = f"shape {tuple(candidate.shape)}, expected {shape}"
        return without_numbers(name, reason, reference)
    if candidate.dtype != dtype:
        return without_numbers(name, f"dtype {candidate.dtype}, expected {dtype}", reference)
    if oracle is None or tuple(oracle.shape) != shape:
        got = None if oracle is None else tuple(oracle.shape)
        raise ValueError(f"the oracle of {name} must be {shape}, got {got}")
    if not dtype.is_floating_point:
        same_bits = bit_identical(candidate, reference)
        reason = "" if same_bits else _unequal(candidate, reference)
        return without_numbers(name, reason, reference)
    return _compare_numbers(name, candidate, reference, to_double(oracle), sums, noise, exact)


def _compare_numbers(
    name: str, candidate: Tensor, reference: Tensor, o: Tensor,
    sums: Tensor | None, noise: Tensor | None, exact: bool,
) -> TensorReport:  # fmt: skip
    """The rule for two tensors of one shape and dtype."""
    c, r = to_double(candidate), to_double(reference)
    same_bits, info = bit_identical(candidate, reference), torch.finfo(reference.dtype)
    ulp = int(ulp_distance(candidate, reference).max()) if c.numel() else 0
    alike = c.isinf() & (c == r) & (r == o)  # minus infinity where a mask says so, in all three
    broken = _not_finite({"candidate": c, "reference": r, "float64 run": o}, alike)
    if broken:
        known = None if ulp == UNREACHABLE else ulp
        report = without_numbers(name, broken, reference)
        return replace(report, ulp=known, bit_identical=same_bits)
    c, r, o = (values.masked_fill(alike, 0.0) for values in (c, r, o))
    c_error, r_error = (c - o).abs(), (r - o).abs()
    s = _sizes(o, sums, info).masked_fill(alike, 0.0)
    if noise is None:
        e = r_error.clamp(min=rms(r_error))
    else:
        e = torch.maximum(r_error, noise.cpu().masked_fill(alike, 0.0))
    allowed = FACTOR * rms(e) + RMS_FLOOR * info.eps * rms(s)
    limit = FACTOR * e + info.eps * (ELEMENT_FLOOR * s + TENSOR_FLOOR * rms(s))
    apart, size = (c - r).abs(), torch.maximum(c.abs(), r.abs())
    relative = torch.where(size > 0, apart / size, 0.0)
    count = 0 if same_bits else int((c_error > limit).sum())
    worst = _worst(c, o, limit) if count else None
    reason = ""
    if exact and not same_bits:
        reason = _unequal(candidate, reference)
    elif not same_bits:
        reason = _reason(c_error, e, s, allowed, count, worst)
    return TensorReport(
        name=name, shape=tuple(reference.shape), dtype=reference.dtype,
        max_abs=largest(apart), max_rel=largest(relative), ulp=ulp,
        candidate_error=rms(c_error), reference_error=rms(r_error), allowed=allowed,
        bit_identical=same_bits, agrees=not reason, reason=reason, differing=count, worst=worst,
    )  # fmt: skip


def _sizes(o: Tensor, sums: Tensor | None, info: torch.finfo) -> Tensor:
    """s, at least |o| and never so small that a step of the denormals would count as an error."""
    given = o.abs().clamp(min=rms(o)) if sums is None else torch.maximum(sums.cpu(), o.abs())
    return given.clamp(min=info.smallest_normal)  # smallest_normal * eps is the denormals' step


def _reason(
    c_error: Tensor, e: Tensor, s: Tensor, allowed: float, count: int, worst: WorstElement | None
) -> str:
    """The two inequalities of the rule in words; the empty string where both hold."""
    if rms(e) > REFERENCE_LIMIT * rms(s):
        return (
            f"the reference itself is {rms(e):.1e} from its float64 run, "
            "so it cannot judge; is it random, or does it depend on the dtype?"
        )
    if worst is not None:
        return (
            f"{count} of {c_error.numel()} elements; worst {list(worst.index)}: got "
            f"{worst.got:.9g}, expected {worst.expected:.9g} within {worst.limit:.1e}"
        )
    if rms(c_error) <= allowed:
        return ""
    return f"rms error {rms(c_error):.1e}, allowed {allowed:.1e}, spread over all elements"


def _worst(c: Tensor, o: Tensor, limit: Tensor) -> WorstElement:
    """The element whose error is the largest multiple of its limit."""
    worst = int(((c - o).abs() / limit).argmax())
    index = tuple(int(i) for i in np.unravel_index(worst, tuple(c.shape)))
    return WorstElement(index, *(float(values.flatten()[worst]) for values in (c, o, limit)))


def _unequal(candidate: Tensor, reference: Tensor) -> str:
    """Bits differ, in words: how many elements, which first, and the values there."""
    differ = differing_bits(candidate, reference)
    index = [int(i) for i in differ.nonzero()[0]]
    got, expected = (t[tuple(index)].item() for t in (candidate, reference))
    return (
        f"other bits in {int(differ.sum())} of {differ.numel()} elements; first {index}: "
        f"got {got!r}, expected {expected!r}"
    )


def without_numbers(name: str, reason: str, present: Tensor | None = None) -> TensorReport:
    """A verdict that needs no number; it agrees where there is no reason against it.

    Shape and dtype are those of ``present``, a tensor that is there.
    """
    number = math.nan if reason else 0.0
    shape, dtype = ((), None) if present is None else (tuple(present.shape), present.dtype)
    return TensorReport(
        name, shape, dtype, number, number, None if reason else 0, number, number, number,
        not reason, not reason, reason,
    )  # fmt: skip


def _missing(name: str, candidate: Tensor | None, reference: Tensor | None) -> TensorReport:
    present = candidate if reference is None else reference
    if present is None:
        return replace(without_numbers(name, ""), reason="no gradient in either arm")
    arms = ("candidate", "reference") if candidate is None else ("reference", "candidate")
    reason = f"missing in the {arms[0]}, {tuple(present.shape)} in the {arms[1]}"
    return without_numbers(name, reason, present)


def _not_finite(tensors: dict[str, Tensor], alike: Tensor) -> str:
    counts = {arm: int((~(torch.isfinite(t) | alike)).sum()) for arm, t in tensors.items()}
    found = [f"{count} in the {arm}" for arm, count in counts.items() if count]
    return f"NaN or infinity: {', '.join(found)}" if found else ""
