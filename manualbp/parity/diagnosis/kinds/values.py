"""Kinds seen from all values of one gradient together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, cosine, explains, factor_of

# Significant bits of what a value may have gone through, the coarsest first.
FORMATS = ((8, "bfloat16"), (11, "float16 or TF32"), (24, "float32"))
# A named factor is taken for k within this relative distance, or 4 eps where that is more.
NEAR = 1e-3


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


def factor(s: Suspect) -> Pattern | None:
    """c = k o with k = <c, o> / <o, o>."""
    k = factor_of(s.c, s.o)
    if not s.is_(k * s.o, max(1.0, abs(k)) * s.s):
        return None
    named = _named(k, s)
    if s.o.count_nonzero() < 2 and not named:
        return None  # a single number is always some multiple of another
    short = s.name if s.name.startswith("input") else s.name.removesuffix(".grad")
    words = f"{short} = {k:#.4g} x reference, cosine {math.copysign(1, k):.3f}"
    kind = "sign" if abs(k + 1) < max(NEAR, 4 * s.eps) else "factor"
    if named:
        words += f": {' or '.join(meaning for _, meaning, _ in named)}"
    step = named[0][2] if named else f"look for a scale of {k:.4g} that is left over"
    exact = named[0][0] if named else float(f"{k:.3g}")
    return Pattern(kind, words, f"in the backward of {s.layer}, {step}", exact)


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
            step = (f"look for a missing term in the backward of {s.layer} that is a mean or sum "
                    f"over dimension {dim}")  # fmt: skip
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


def _named(k: float, s: Suspect) -> list[tuple[float, str, str]]:
    """What a factor may come from: its exact value, the words for it, and what to do."""
    output = next((t for n, t in s.evidence.exact.items() if n.startswith("output")), s.o)
    rows = s.evidence.rows or 1
    total, outputs = output.numel(), output.numel() // rows
    terms = ("delta", "delta^T a")[s.o.dim() - 1] if s.o.dim() in (1, 2) else "its terms"
    terms = "its terms" if s.name.startswith("input") else terms
    known: list[tuple[float, str, str]] = [(-1.0, "the sign is wrong", f"negate {s.name}")]
    for n, what, short in ((rows, f"the {rows} rows", "the batch"),
                           (outputs, f"the {outputs} outputs of a row", "the outputs"),
                           (total, f"all {total} outputs", "all outputs")):  # fmt: skip
        known += [(n, f"a sum over {what} where the reference takes a mean",
                   f"average {terms} over {short} instead of summing"),
                  (1 / max(n, 1), f"a mean over {what} where the reference takes a sum",
                   f"sum {terms} over {short} instead of averaging")]  # fmt: skip
    known += [(2.0, "counted twice, or the 1/2 of the squared error is missing", "halve it"),
              (0.5, "half of it is missing, or the 2 of a square's derivative",
               "double it")]  # fmt: skip
    for d in dict.fromkeys(n for n in s.o.shape if n > 1):
        root = math.sqrt(d)
        known += [(root, f"the scale 1/sqrt({d}) is missing", f"divide by sqrt({d})"),
                  (1 / root, f"the scale 1/sqrt({d}) is in it once too often",
                   f"take the scale 1/sqrt({d}) only once")]  # fmt: skip
    near = max(NEAR, 4 * s.eps)
    found = [item for item in known if abs(k / item[0] - 1) < near and item[0] != 1]
    return list({words: (value, words, step) for value, words, step in found}.values())


def _fits(values: Tensor, bits: int) -> bool:
    """Whether every value has at most so many significant bits."""
    mantissa = torch.frexp(values)[0] * 2**bits
    return bool((mantissa == mantissa.round()).all())
