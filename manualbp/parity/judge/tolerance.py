"""When two tensors agree. The one place that decides.

    rms(c - o) <= FACTOR * rms(e) +     RMS_FLOOR * eps * rms(s)     the tensor
    |c - o|_i  <= FACTOR * e_i    + ELEMENT_FLOOR * eps * s_i  + TENSOR_FLOOR * eps * rms(s)
                                                                     each element

c   candidate
o   oracle: a float64 run of the reference
e   the reference's own error in the working dtype, at least |r - o|
s   size of the sums an element comes from: |o|, or more where large terms leave a small rest
eps of the working dtype

So the reference's distance from float64 is the yardstick, no tolerance is set by hand, and the
rule has no scale: multiply a gradient by 1e-9 and the verdict stays the same. Numbers come last:
a missing tensor, another shape or dtype, and NaN are decided before any subtraction. An infinity
agrees with the same one in both other runs. A gradient of 0 has s = 0: only 0 agrees, or what is
below the smallest normal number, since denormals are rounded by their own step.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manualbp.parity.record import TensorReport, Worst

# How much larger than the reference's error the candidate's may be: both are draws of rounding.
FACTOR = 2.0
# What rounding may do to a whole tensor, in eps, where the reference happens to be exact.
RMS_FLOOR = 2.0
# The same for one element, the worst of many.
ELEMENT_FLOOR = 16.0
# What may be left of terms as large as the tensor's others, where another way to the same result
# adds and takes them away again: no element is judged more finely than by the whole tensor's eps.
TENSOR_FLOOR = 1.0
# A reference that is itself this far from float64, relative to its sums, is no yardstick.
REFERENCE_LIMIT = 0.25

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FAR = torch.iinfo(torch.int64).max


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
    size stands for the whole tensor, the rms: right for the large elements, but blind to a fault
    in elements far smaller than that. ``exact`` asks for the reference's bits. Tensors that are not
    floating point must be equal in any case.

    Raises:
        ValueError: the oracle is missing or of another shape than the reference.
    """
    if candidate is None or reference is None:
        return _missing(name, candidate, reference)
    shape, dtype = tuple(reference.shape), reference.dtype
    if tuple(candidate.shape) != shape:
        return _unlike(name, reference, f"shape {tuple(candidate.shape)}, expected {shape}")
    if candidate.dtype != dtype:
        return _unlike(name, reference, f"dtype {candidate.dtype}, expected {dtype}")
    if oracle is None or tuple(oracle.shape) != shape:
        got = None if oracle is None else tuple(oracle.shape)
        raise ValueError(f"the oracle of {name} must be {shape}, got {got}")
    same_bits = bit_identical(candidate, reference)
    if not dtype.is_floating_point:
        reason = "" if same_bits else _unequal(candidate, reference)
        return without_numbers(name, reason, shape, dtype)
    c, r, o = to_double(candidate), to_double(reference), to_double(oracle)
    worst_ulp = int(ulp_distance(candidate, reference).max()) if c.numel() else 0
    ulp = None if worst_ulp == _FAR else worst_ulp
    alike = c.isinf() & (c == r) & (r == o)  # minus infinity where a mask says so, in all three
    broken = _not_finite({"candidate": c, "reference": r, "float64 run": o}, alike)
    if broken:
        nan = math.nan
        return TensorReport(
            name, shape, dtype, nan, nan, ulp, nan, nan, nan, same_bits, False, broken
        )
    c, r, o = (values.masked_fill(alike, 0.0) for values in (c, r, o))
    c_error, r_error = (c - o).abs(), (r - o).abs()
    s = _sizes(o, sums, dtype).masked_fill(alike, 0.0)
    if noise is None:
        e = torch.maximum(r_error, r_error.new_tensor(rms(r_error)))
    else:
        e = torch.maximum(r_error, noise.cpu().masked_fill(alike, 0.0))
    eps = torch.finfo(dtype).eps
    allowed = FACTOR * rms(e) + RMS_FLOOR * eps * rms(s)
    limit = FACTOR * e + eps * (ELEMENT_FLOOR * s + TENSOR_FLOOR * rms(s))
    count = int((c_error > limit).sum())
    worst = _worst(c, o, limit) if count else None
    reason = ""
    if exact and not same_bits:
        reason = _unequal(candidate, reference)
    elif not same_bits:
        reason = _judge(c_error, e, s, allowed, count, worst)
    return TensorReport(
        name=name, shape=shape, dtype=dtype,
        max_abs=_max((c - r).abs()), max_rel=_max_relative(c, r), ulp=worst_ulp,
        candidate_error=rms(c_error), reference_error=rms(r_error), allowed=allowed,
        bit_identical=same_bits, agrees=not reason, reason=reason,
        differing=0 if same_bits else count, worst=None if same_bits else worst,
    )  # fmt: skip


def bit_identical(a: Tensor, b: Tensor) -> bool:
    """Same shape, same dtype, same bits: NaN equals the same NaN, -0.0 differs from 0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(_bits(a), _bits(b))


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """Representable numbers from a to b, elementwise, int64; 0.0 and -0.0 are the same number.

    A NaN on either side is the largest int64. Shapes and dtypes must be equal.

    Raises:
        ValueError: another shape or dtype, or no floating-point dtype.
    """
    if a.shape != b.shape or a.dtype != b.dtype or not a.dtype.is_floating_point:
        raise ValueError(
            f"expected two floating-point tensors of one shape and dtype, "
            f"got {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        )
    x, y = _bits(a).to(torch.int64), _bits(b).to(torch.int64)
    # The bits of a float are sign and magnitude; magnitudes count the numbers from zero up.
    sign = torch.iinfo(_INTEGERS[a.element_size()]).min
    m, n = x & ~sign, y & ~sign
    half = 2**62 - 1  # so that the sum of two float64 magnitudes stays an int64
    apart = m.clamp(max=half) + n.clamp(max=half)
    distance = torch.where((x < 0) == (y < 0), (m - n).abs(), apart)
    nan = (torch.isnan(a) | torch.isnan(b)).cpu()
    return distance.masked_fill(nan, _FAR)


def to_double(values: Tensor | NDArray[Any]) -> Tensor:
    """The same numbers on the CPU in float64, without a graph."""
    return torch.as_tensor(values).detach().to("cpu", torch.float64)


def _judge(
    c_error: Tensor, e: Tensor, s: Tensor, allowed: float, count: int, worst: Worst | None
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


def _worst(c: Tensor, o: Tensor, limit: Tensor) -> Worst:
    """The element that is the most times its limit away."""
    worst = int(((c - o).abs() / limit).argmax())
    index = tuple(int(i) for i in np.unravel_index(worst, tuple(c.shape)))
    return Worst(index, *(float(values.flatten()[worst]) for values in (c, o, limit)))


def _unequal(candidate: Tensor, reference: Tensor) -> str:
    """Bits differ, in words: how many elements, which first, and the values there."""
    differ = _bits(candidate) != _bits(reference)
    index = [int(i) for i in differ.nonzero()[0]]
    got, expected = (t[tuple(index)].item() for t in (candidate, reference))
    return (
        f"other bits in {int(differ.sum())} of {differ.numel()} elements; first {index}: "
        f"got {got!r}, expected {expected!r}"
    )


def _sizes(o: Tensor, sums: Tensor | None, dtype: torch.dtype) -> Tensor:
    """s, at least |o| and never so small that a step of the denormals would count as an error."""
    given = o.abs().clamp(min=rms(o)) if sums is None else torch.maximum(sums.cpu(), o.abs())
    info = torch.finfo(dtype)
    return given.clamp(min=info.smallest_normal)  # smallest_normal * eps is the denormals' step


def without_numbers(
    name: str, reason: str, shape: tuple[int, ...] = (), dtype: torch.dtype | None = None
) -> TensorReport:
    """A verdict that no number decides; it agrees where there is no reason against it."""
    number = math.nan if reason else 0.0
    return TensorReport(
        name, shape, dtype, number, number, None if reason else 0, number, number, number,
        not reason, not reason, reason,
    )  # fmt: skip


def _missing(name: str, candidate: Tensor | None, reference: Tensor | None) -> TensorReport:
    if reference is not None:
        reason = f"missing in the candidate, {tuple(reference.shape)} in the reference"
        return _unlike(name, reference, reason)
    if candidate is not None:
        reason = f"missing in the reference, {tuple(candidate.shape)} in the candidate"
        return _unlike(name, candidate, reason)
    return replace(without_numbers(name, ""), reason="no gradient in either arm")


def _unlike(name: str, present: Tensor, reason: str) -> TensorReport:
    return without_numbers(name, reason, tuple(present.shape), present.dtype)


def _not_finite(tensors: dict[str, Tensor], alike: Tensor) -> str:
    counts = {arm: int((~(torch.isfinite(t) | alike)).sum()) for arm, t in tensors.items()}
    found = [f"{count} in the {arm}" for arm, count in counts.items() if count]
    return f"NaN or infinity: {', '.join(found)}" if found else ""


def _bits(values: Tensor) -> Tensor:
    return values.detach().cpu().contiguous().view(_INTEGERS[values.element_size()])


def rms(values: Tensor) -> float:
    """Root mean square, scaled by the largest so that squares neither vanish nor overflow."""
    top = _max(values.abs())
    return top * math.sqrt(float((values / top).square().mean())) if top != 0 else 0.0


def _max(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _max_relative(c: Tensor, r: Tensor) -> float:
    size = torch.maximum(c.abs(), r.abs())
    return _max(torch.where(size > 0, (c - r).abs() / size, 0.0))
