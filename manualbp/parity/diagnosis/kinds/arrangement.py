"""Kinds in which the right numbers stand in the wrong places."""

from __future__ import annotations

import torch
from torch import Tensor

from manualbp.parity.diagnosis.evidence import Pattern, Suspect, explains
from manualbp.parity.diagnosis.wording import noun_of


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
