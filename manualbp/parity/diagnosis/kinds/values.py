"""Kinds seen from all values of one gradient together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, cosine, explains

# Significant bits of what a value may have gone through, the coarsest first.
FORMATS = ((8, "bfloat16"), (11, "float16 or TF32"), (24, "float32"))


def zero(s: Suspect) -> Pattern | None:
    """c = 0."""
    if s.c.any() or s.right:
        return None
    words = "the gradient is zero everywhere: returned zeros, detached, or never added"
    return Pattern("zero", words, f"find where the backward of {s.layer} leaves {s.name} untouched")


def rounding(s: Suspect) -> Pattern | None:
    """c = o: only bits differ, or a little more than the rule allows."""
    if not s.right:
        return None
    words = "no more than rounding: another order of summation, or a less accurate formula"
    step = f"take the reference's order of operations in the backward of {s.layer}, or exact=False"
    return Pattern("rounding", words, step)


def precision(s: Suspect) -> Pattern | None:
    """c = round(o) to fewer bits than its dtype has."""
    own = 1 - round(math.log2(s.eps))
    for bits, format_ in FORMATS:
        zeros = int(s.c.count_nonzero()) * (own - bits)  # bits that are 0, by chance or not
        if zeros < own or not _fits(s.c, bits) or _fits(s.o, bits):
            continue
        if explains(s.o, s.c, s.s, 2.0 ** (1 - bits)):
            words = f"its values have only {bits} significant bits: it went through {format_}"
            return Pattern(
                "precision", words, f"keep {s.name} and what it is summed from in the working dtype"
            )
    return None


def offset(s: Suspect) -> Pattern | None:
    """c = o + a constant, of the whole tensor or along one dimension."""
    apart = s.c - s.o
    if s.o.numel() < 2:
        return None
    if s.is_(s.o + (mean := apart.mean()), s.s + mean.abs()):
        words = f"reference + {float(mean):.6g} everywhere: a constant is added"
        return Pattern("offset", words, f"look for what the backward of {s.layer} adds to {s.name}")
    for dim, n in enumerate(s.o.shape):
        along = apart.mean(dim, keepdim=True)
        if s.o.dim() > 1 and n > 2 and s.is_(s.o + along, s.s + along.abs()):
            words = f"off by a number that is the same along dimension {dim}"
            step = (f"look in the backward of {s.layer} for a term that is the same along "
                    f"dimension {dim}")  # fmt: skip
            return Pattern("offset", words, step, dim)
    return None


def unknown(s: Suspect) -> Pattern:
    """None of these: cosine, size and place of the error."""
    apart, size = s.c - s.o, rms(s.o)
    index = [int(i) for i in (apart.abs() == apart.abs().max()).nonzero()[0]]
    got, expected = (float(values[tuple(index)]) for values in (s.c, s.o))
    much = (f"cosine {cosine(s.c, s.o):.3g}, relative error {rms(apart) / size:.2g}" if size
            else "the reference's is zero everywhere")  # fmt: skip
    words = f"no known pattern: {much}; largest at {index}: got {got:.6g}, expected {expected:.6g}"
    step = f"hold the formula of {s.name} against the reference's: a term is missing or wrong"
    return Pattern("unknown", words, step)


def _fits(values: Tensor, bits: int) -> bool:
    """Whether every value has at most so many significant bits."""
    mantissa = torch.frexp(values)[0] * 2**bits
    return bool((mantissa == mantissa.round()).all())
