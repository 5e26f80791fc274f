"""Kinds seen from where in the gradient it is wrong, or where its right numbers should stand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, explains, factor_of, limit


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
    found = [some for dim in range(s.o.dim()) if (some := _wrong_lines(s, dim))]
    if not found:
        return None
    if any(some.tile for some in found) and not _moves(s):
        found = [some._replace(tile="") for some in found]
    # In what rounding may do to each: a small column stands beside the rounding of large ones.
    part, apart = found[-1].mask, (s.c - s.o).abs() / limit(s.s, s.eps)
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
    step = f"look at what computes {where} of {s.name}"
    if kind == "tile":
        step = f"check the bounds of the loop or tile that computes {where} of {s.name}"
    return Pattern(kind, words, step, tuple(some.words for some in found))


def spans(indices: list[int]) -> list[tuple[int, int]]:
    """Sorted indices as the longest spans [start, stop) without a gap."""
    found: list[tuple[int, int]] = []
    for i in indices:
        if found and found[-1][1] == i:
            found[-1] = found[-1][0], i + 1
        else:
            found.append((i, i + 1))
    return found


def listed(noun: str, found: list[tuple[int, int]], count: int) -> str:
    """Spans in words: ``rows 1 and 4 to 6 of 8``."""
    shown = [str(a) if b - a == 1 else f"{a} to {b - 1}" for a, b in found[:4]]
    if len(found) > 4:
        shown.append(f"{len(found) - 4} more")
    many = "s" if sum(b - a for a, b in found) > 1 else ""
    joined = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{noun}{many} {joined} of {count}"


def tile(found: list[tuple[int, int]], count: int) -> str:
    """``: the last tile`` where a single span of neighbours is at an edge or an aligned block."""
    (start, stop), *more = found
    if more or stop - start < 2:
        return ""
    if stop == count:
        return ": the last tile"
    if not start:
        return ": the first tile"
    return ": one tile" if stop - start >= 4 and start % (stop - start) == 0 else ""


def noun_of(dims: int, dim: int) -> str:
    """What one index along a dimension is called."""
    return "element" if dims == 1 else ("row", "column")[dim] if dims == 2 else f"dim-{dim} index"


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


def _moves(s: Suspect) -> bool:
    """Whether the wrong lines are the last ones for another length as well: a loop's bounds."""
    runs = s.evidence.doubled
    if runs is None or not runs.same_fault(s.name, s.c, s.o):
        return False
    for view in (runs.shorter(n) for n in runs.lengths):
        pair = None if view is None else view.pair(s.name)
        if pair is None or pair[0].dim() != s.o.dim():
            continue
        apart = (pair[0] - pair[1]).abs() > 1e-9 * pair[1].abs().max()
        for dim, n in enumerate(s.o.shape):
            rest = [d for d in range(s.o.dim()) if d != dim]
            before, after = (x.any(rest) if rest else x for x in (s.wrong, apart))
            shorter = len(after) < n
            if shorter and after.any() and not before.all() and torch.equal(
                before.flip(0)[: len(after)], after.flip(0)
            ):  # fmt: skip
                return True
    return False


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
    edge = tile(found, n) if 2 * count <= alive else ""
    return _Lines(count, listed(noun_of(s.o.dim(), dim), found, n), edge, mask)
