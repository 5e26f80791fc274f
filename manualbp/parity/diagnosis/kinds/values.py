"""What kind of wrong one tensor is, seen from its own numbers: small recognizers, one formula each.

They are asked in the order of ``SPECIFIC``, then those of batch_kinds.py, then ``LOCAL``; each
accepts only where rounding is all it leaves unexplained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manualbp.parity.diagnosis.evidence import (
    Pattern,
    Suspect,
    cosine,
    explains,
    factor_of,
    listed,
    noun_of,
    spans,
    tile,
)
from manualbp.parity.diagnosis.kinds.factors import factor
from manualbp.parity.judge.tolerance import rms

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
        evidence = int(s.c.count_nonzero()) * (own - bits)  # bits that are 0, by chance or not
        if evidence < own or not _fits(s.c, bits) or _fits(s.o, bits):
            continue
        if explains(s.o, s.c, s.s, 2.0 ** (1 - bits)):
            words = f"its values have only {bits} significant bits: it went through {format_}"
            return Pattern(
                "precision", words, f"keep {s.name} and what it is summed from in the working dtype"
            )
    return None


def swapped(s: Suspect) -> Pattern | None:
    """c = the gradient of something else, perhaps transposed."""
    for other in s.evidence.order:
        found = s.evidence.exact.get(other)
        if other == s.name or found is None or found.numel() != s.o.numel() or not found.any():
            continue
        found = found.cpu()
        turned = [found, found.t()] if found.dim() == 2 else [found]
        if not any(s.is_(guess.reshape(s.o.shape)) for guess in turned):
            continue
        mine, both = s.evidence.candidate.get(other), "equals the gradient of"
        if mine is not None and explains(
            s.o.flatten(), mine.double().cpu().flatten(), s.s.flatten(), s.eps
        ):
            both = "is exchanged with the gradient of"
        short = other.removesuffix(".grad")
        step = f"check the order in which the backward of {s.layer} returns its gradients"
        return Pattern("swapped", f"{both} {short}", step)
    return None


def transposed(s: Suspect) -> Pattern | None:
    """c = o^T, in a square or with its numbers read in the other order."""
    if s.o.dim() != 2 or 1 in s.o.shape:
        return None
    shape, turned = s.o.shape, s.o.shape[::-1]
    forth = [x.t().reshape(shape) for x in (s.o, s.s)]
    back = [x.reshape(turned).t() for x in (s.o, s.s)]
    if not (s.is_(*forth) or s.is_(*back)):
        return None
    words = "transposed: the numbers are right, in the order of the transpose"
    step = f"in the backward of {s.layer}, return delta^T a, not a^T delta"
    return Pattern("transposed", words, step)


def reordered(s: Suspect) -> Pattern | None:
    """c = o with its lines along one dimension reversed, rolled, or in any other order."""
    for dim, n in enumerate(s.o.shape):
        if n < 2:
            continue
        here = torch.arange(n)
        noun = noun_of(s.o.dim(), dim)
        orders = {f"the {noun}s reversed": here.flip(0), f"the {noun}s rolled by 1": here.roll(1),
                  f"the {noun}s rolled by -1": here.roll(-1),
                  f"the two halves of the {noun}s exchanged": here.roll(n // 2),
                  f"the {noun}s in another order": _order(s.c, s.o, dim)}  # fmt: skip
        for how, order in orders.items():
            if s.is_(s.o.index_select(dim, order), s.s.index_select(dim, order)):
                moved = [int(i) for i in (order != here).nonzero()]
                if len(moved) == 2:
                    how = f"{noun}s {moved[0]} and {moved[1]} exchanged"
                step = f"check the index along dimension {dim} in the backward of {s.layer}"
                return Pattern("reordered", f"the right numbers, {how}", step, how)
    return None


def element(s: Suspect) -> Pattern | None:
    """c = o in all elements but one."""
    if s.o.numel() < 2 or int(s.wrong.sum()) != 1:
        return None
    index = [int(i) for i in s.wrong.nonzero()[0]]
    got, expected = (float(values[tuple(index)]) for values in (s.c, s.o))
    words = f"only element {index} differs: got {got:.6g}, expected {expected:.6g}"
    step = f"look for what writes to {index} of {s.name} alone"
    return Pattern("element", words, step, tuple(index))


def lines(s: Suspect) -> Pattern | None:
    """c = o but in some rows or columns."""
    found: list[str] = []
    kind, edge, part = "lines", "", s.wrong
    for dim, n in enumerate(s.o.shape):
        rest = [d for d in range(s.o.dim()) if d != dim]
        wrong = s.wrong.any(dim=rest) if rest else s.wrong
        alive = (s.o.ne(0).any(dim=rest) if rest else s.o.ne(0)) | wrong
        runs = spans([int(i) for i in wrong.nonzero()])
        count, at_edge = int(wrong.sum()), len(runs) == 1 and (not runs[0][0] or runs[0][1] == n)
        if not 0 < count < int(alive.sum()) or (2 * count > int(alive.sum()) and not at_edge):
            continue
        found.append(listed(noun_of(s.o.dim(), dim), runs, n))
        kind = "line" if count == 1 else "tile" if tile(runs, n) and kind == "lines" else kind
        edge = edge or tile(runs, n)
        part = wrong.reshape([-1 if d == dim else 1 for d in range(s.o.dim())]).expand_as(s.o)
    if not found:
        return None
    apart = (s.c - s.o).abs()
    if rms(apart[~part]) > 1e-2 * rms(apart[part]):
        return None  # a matter of degree: it is larger there, but no line is right
    k = factor_of(s.c[part], s.o[part])
    scaled = explains(k * s.o[part], s.c[part], max(1.0, abs(k)) * s.s[part], s.eps)
    inside = ("" if not scaled else ", which is zero in the candidate" if abs(k) < 1e-3
              else f", there {k:.4g} x reference")  # fmt: skip
    words = f"only {' and '.join(found)} differ{'s' if kind == 'line' else ''}{inside}{edge}"
    step = f"check the bounds of the loop or tile that computes {' and '.join(found)} of {s.name}"
    return Pattern(kind, words, step, tuple(found))


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


SPECIFIC = (zero, precision, factor, swapped, transposed, reordered)
LOCAL = (element, lines, offset)


def _fits(values: Tensor, bits: int) -> bool:
    """Whether every value has at most so many significant bits."""
    mantissa = torch.frexp(values)[0] * 2**bits
    return bool((mantissa == mantissa.round()).all())


def _order(c: Tensor, o: Tensor, dim: int) -> Tensor:
    """The order of o's lines that c has, if any: both sorted by one random projection."""
    n = o.shape[dim]
    flat = [values.movedim(dim, 0).reshape(n, -1) for values in (c, o)]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(flat[0].shape[1], generator=generator, dtype=torch.float64)
    mine, theirs = ((lines @ direction).argsort() for lines in flat)
    order = torch.empty(n, dtype=torch.int64)
    order[mine] = theirs
    return order
