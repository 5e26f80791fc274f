"""When two tensors agree. The one place that decides.

    rms(c - o) <= FACTOR * rms(e) +     RMS_FLOOR * eps * rms(s)     the tensor
    |c - o|_i  <= FACTOR * e_i    + ELEMENT_FLOOR * eps * s_i  + LINE_FLOOR * eps * l_i
                                                                     each element

c   candidate
o   oracle: a float64 run of the reference
e   the reference's own error in the working dtype, at least |r - o|
s   size of the sums an element comes from: |o|, or more where large terms leave a small rest
l   the smallest rms of s along a row, a column or a channel that the element is in
eps of the working dtype

The yardstick is the reference's own distance from float64. No tolerance is set by hand, and the
rule has no scale: multiply a gradient by 1e-9 and the verdict stays the same. A missing tensor,
another shape or dtype are decided before any number is compared. An infinity agrees where all
three runs have the same one. Where the reference itself is NaN or infinite, or far from its float64
run, a candidate that is like it cannot be judged. A gradient of 0 has s = 0: then only 0 agrees, or
what is below the smallest normal number, since denormals are rounded to their own step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from manualbp.parity.bits import (
    UNREACHABLE,
    bit_identical,
    differing_bits,
    largest_of,
    rms,
    to_double,
    ulp_distance,
)
from manualbp.parity.record import TensorReport, WorstElement, without_numbers

# How much larger than the reference's error the candidate's may be: both are draws of rounding.
FACTOR = 2.0
# What rounding may do to a whole tensor, in eps, where the reference happens to be exact.
RMS_FLOOR = 2.0
# The same for one element, the worst of many.
ELEMENT_FLOOR = 16.0
# Another way to the same result may add terms as large as its neighbours' and take them away again.
# What is left of them is an eps of its row or column, so no element is judged more finely.
LINE_FLOOR = 1.0
# A reference that is itself this far from float64, relative to its sums, is no yardstick.
REFERENCE_LIMIT = 0.25


RANDOM = (
    "the reference draws random numbers of its own, so another run of it is another number; draw "
    "from the global generators, which are seeded for each run"
)


@dataclass(frozen=True)
class Limits:
    """What the rule allows, from the reference's runs alone: any candidate is held against it.

    Attributes:
        reference: the reference's tensor.
        o: the oracle, 0 where ``skipped``.
        skipped: where the reference or the oracle is not finite; None where nowhere.
        limit: what each element may be off by.
        allowed: what the rms may be.
        error: the rms of the reference's own error.
        broken: it is NaN or infinite somewhere, so it is the judge of nobody.
        far: it cannot judge candidates that have other bits.
        unjudged: why it is no judge, in words.
    """

    reference: Tensor
    o: Tensor
    skipped: Tensor | None
    limit: Tensor
    allowed: float
    error: float
    broken: bool
    far: bool
    unjudged: str

    @staticmethod
    def of(
        reference: Tensor, o: Tensor, sums: Tensor | None = None, noise: Tensor | None = None,
        lowered: torch.dtype | None = None, eps: float = 0.0, random: bool = False,
    ) -> Limits:  # fmt: skip
        """The limits for candidates of the reference's shape and dtype.

        ``sums`` and ``noise`` are s and e. ``lowered`` is the dtype that the oracle went through,
        if it is no float64 throughout: what is finer cannot be judged. ``eps`` is the rounding
        inside of a run, where that is coarser than the dtype's (autocast). ``random``: another run
        of the reference is another number.
        """
        r, info = to_double(reference), torch.finfo(reference.dtype)
        own_eps = max(info.eps, eps)
        eps = own_eps if lowered is None else max(own_eps, torch.finfo(lowered).eps)
        skipped = ~(r.isfinite() & o.isfinite())
        if not skipped.any():
            broken, hidden = 0, None
        else:
            broken = int((skipped & ~(r.isinf() & (r == o))).sum())
            hidden = skipped
            r, o = r.masked_fill(skipped, 0.0), o.masked_fill(skipped, 0.0)
        s = _sizes(o, sums, info)
        e = (r - o).abs_()
        error = rms(e)
        e = e.clamp_(min=error) if noise is None else torch.maximum(e, noise.cpu())
        if hidden is not None:
            e, s = e.masked_fill_(hidden, 0.0), s.masked_fill(hidden, 0.0)
        size, own = rms(s), rms(e)
        limit = e.mul_(FACTOR).add_(s, alpha=eps * ELEMENT_FLOOR)
        limit += eps * LINE_FLOOR * of_lines(s)
        coarse = lowered if eps > own_eps else None
        unjudged = RANDOM if random else _unjudged(broken, r.numel(), own, size, coarse)
        return Limits(
            reference, o, hidden, limit, FACTOR * own + RMS_FLOOR * eps * size, error, broken > 0,
            random or own > REFERENCE_LIMIT * size, unjudged,
        )  # fmt: skip

    def differs(self, candidate: Tensor) -> bool:
        """Whether a candidate is beyond a limit. Nothing is where the reference is no judge."""
        if self.far or bit_identical(candidate, self.reference):
            return False
        c = to_double(candidate)
        if self._only_one(c):
            return True
        error = self._error(c)
        return not bool((error <= self.limit).all()) or rms(error) > self.allowed

    def report(self, name: str, candidate: Tensor, exact: bool = False) -> TensorReport:
        """The verdict on a candidate in numbers and words."""
        c, r = to_double(candidate), to_double(self.reference)
        same_bits = bit_identical(candidate, self.reference)
        ulp = int(largest_of(ulp_distance, candidate, self.reference))
        only_one = self._only_one(c)
        if only_one:
            known = None if ulp == UNREACHABLE else ulp
            found = without_numbers(name, only_one, self.reference)
            return replace(found, ulp=known, bit_identical=same_bits)
        error = self._error(c)
        count = 0 if same_bits else int((error > self.limit).sum())
        worst = _worst(c, self.o, error, self.limit) if count else None
        wrong, unjudged = "", ""
        if exact:
            wrong = "" if same_bits else unequal(candidate, self.reference)
        else:
            unjudged = self.unjudged if self.broken or not same_bits else ""
            if not (same_bits or self.far):
                wrong = _reason(error, self.allowed, count, worst)
        if self.skipped is not None:
            c, r = c.masked_fill(self.skipped, 0.0), r.masked_fill(self.skipped, 0.0)
        return TensorReport(
            name=name, shape=tuple(c.shape), dtype=self.reference.dtype,
            max_abs=largest_of(lambda a, b: (a - b).abs_(), c, r),
            max_rel=largest_of(_relative, c, r), ulp=ulp,
            candidate_error=rms(error), reference_error=self.error, allowed=self.allowed,
            bit_identical=same_bits, agrees=not (wrong or unjudged), reason=wrong or unjudged,
            differing=count, worst=worst, unjudged=bool(unjudged) and not wrong,
        )  # fmt: skip

    def _error(self, c: Tensor) -> Tensor:
        error = (c - self.o).abs_()
        return error if self.skipped is None else error.masked_fill_(self.skipped, 0.0)

    def _only_one(self, c: Tensor) -> str:
        """Where c is NaN or infinite and the reference is not, or the other way round; in words."""
        if self.skipped is None and c.isfinite().all():
            return ""
        r = to_double(self.reference)
        alike = (c.isnan() & r.isnan()) | (c == r) | (c.isfinite() & r.isfinite())
        return "" if alike.all() else _not_finite({"candidate": c, "reference": r}, alike)


def _sizes(o: Tensor, sums: Tensor | None, info: torch.finfo) -> Tensor:
    """s, at least |o| and never so small that a step of the denormals would count as an error."""
    given = o.abs().clamp(min=rms(o)) if sums is None else torch.maximum(sums.cpu(), o.abs())
    return given.clamp(min=info.smallest_normal)  # smallest_normal * eps is the denormals' step


def of_lines(s: Tensor) -> Tensor | float:
    """l: for each element the smallest of the rms of s over its slices, one for each dimension."""
    if s.dim() < 2 or not s.numel():
        return s
    top = s.max().clamp(min=torch.finfo(s.dtype).tiny)
    squares = (s / top).square()  # neither vanish nor overflow
    dims = range(s.dim())
    means = [squares.mean([other for other in dims if other != dim], keepdim=True) for dim in dims]
    return top * functools.reduce(torch.minimum, means).sqrt()


def _unjudged(broken: int, count: int, e: float, s: float, coarse: torch.dtype | None) -> str:
    """Why the reference is no judge of what is like it; the empty string where it is one."""
    if broken:
        return f"the reference itself is NaN or infinite in {broken} of {count} elements"
    if e > REFERENCE_LIMIT * s:
        return (
            f"the reference itself is {e:.1e} from its float64 run, "
            "so it cannot judge; is it random, or does it depend on the dtype?"
        )
    if coarse is not None:
        name = str(coarse).removeprefix("torch.")
        return f"the reference computes in {name} inside, so there is no float64 run to judge by"
    return ""


def _reason(error: Tensor, allowed: float, count: int, worst: WorstElement | None) -> str:
    """The two inequalities of the rule in words; the empty string where both hold."""
    if worst is not None:
        return (
            f"{count} of {error.numel()} elements; worst {list(worst.index)}: got "
            f"{worst.got:.9g}, expected {worst.expected:.9g} within {worst.limit:.1e}"
        )
    if rms(error) <= allowed:
        return ""
    return f"rms error {rms(error):.1e}, allowed {allowed:.1e}, spread over all elements"


def _worst(c: Tensor, o: Tensor, error: Tensor, limit: Tensor) -> WorstElement:
    """The element whose error is the largest multiple of its limit."""
    worst = int((error / limit).nan_to_num(nan=0.0).argmax())  # 0 of 0 where none is finite
    index = tuple(int(i) for i in np.unravel_index(worst, tuple(c.shape)))
    return WorstElement(index, *(float(values.flatten()[worst]) for values in (c, o, limit)))


def unequal(candidate: Tensor, reference: Tensor) -> str:
    """Bits differ, in words: how many elements, which first, and the values there."""
    differ = differing_bits(candidate, reference)
    index = [int(i) for i in differ.nonzero()[0]]
    got, expected = (t[tuple(index)].item() for t in (candidate, reference))
    return (
        f"other bits in {int(differ.sum())} of {differ.numel()} elements; first {index}: "
        f"got {got!r}, expected {expected!r}"
    )


def _relative(c: Tensor, r: Tensor) -> Tensor:
    size = torch.maximum(c.abs(), r.abs())
    return torch.where(size > 0, (c - r).abs_() / size, 0.0)


def _not_finite(tensors: dict[str, Tensor], alike: Tensor) -> str:
    counts = {arm: int((~(torch.isfinite(t) | alike)).sum()) for arm, t in tensors.items()}
    found = [f"{count} in the {arm}" for arm, count in counts.items() if count]
    return f"NaN or infinity: {', '.join(found)}" if found else ""
