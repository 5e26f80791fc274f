"""Kinds seen from where in the gradient it is wrong: one element, some rows or columns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, explains, factor_of
from manualbp.parity.diagnosis.wording import listed, noun_of, spans, tile


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
    found = [some for dim in range(s.o.dim()) if (some := _wrong_lines(s, dim))]
    if not found:
        return None
    part, apart = found[-1].mask, (s.c - s.o).abs()
    if rms(apart[~part]) > 1e-2 * rms(apart[part]):
        return None  # a matter of degree: it is larger there, but no line is right
    kind = "lines"
    for some in found:
        if some.lines == 1:
            kind = "line"
        elif some.tile and kind == "lines":
            kind = "tile"
    k = factor_of(s.c[part], s.o[part])
    scaled = explains(k * s.o[part], s.c[part], max(1.0, abs(k)) * s.s[part], s.eps)
    inside = ("" if not scaled else ", which is zero in the candidate" if abs(k) < 1e-3
              else f", there {k:.4g} x reference")  # fmt: skip
    where, edge = " and ".join(some.words for some in found), [some.tile for some in found]
    words = (
        f"only {where} differ{'s' if kind == 'line' else ''}{inside}{next(filter(None, edge), '')}"
    )
    step = f"check the bounds of the loop or tile that computes {where} of {s.name}"
    return Pattern(kind, words, step, tuple(some.words for some in found))


class _Lines(NamedTuple):
    """The wrong lines along one dimension: how many, in words, and as a mask of the elements."""

    lines: int
    words: str
    tile: str
    mask: Tensor


def _wrong_lines(s: Suspect, dim: int) -> _Lines | None:
    """None where no line is wrong, or most that are not zero are and not at an edge."""
    n, rest = s.o.shape[dim], [d for d in range(s.o.dim()) if d != dim]
    wrong = s.wrong.any(dim=rest) if rest else s.wrong
    alive = int(((s.o.ne(0).any(dim=rest) if rest else s.o.ne(0)) | wrong).sum())
    found = spans([int(i) for i in wrong.nonzero()])
    count, at_edge = int(wrong.sum()), len(found) == 1 and (not found[0][0] or found[0][1] == n)
    if not 0 < count < alive or (2 * count > alive and not at_edge):
        return None
    mask = wrong.reshape([-1 if d == dim else 1 for d in range(s.o.dim())]).expand_as(s.o)
    return _Lines(count, listed(noun_of(s.o.dim(), dim), found, n), tile(found, n), mask)
