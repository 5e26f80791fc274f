"""The terms that are tried for one gradient, the simple ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from itertools import combinations_with_replacement as multisets

import torch

from manualbp.parity.diagnosis.formulas.bases import Base
from manualbp.parity.diagnosis.formulas.expressions import (
    LAID,
    PRODUCTS,
    Block,
    Factor,
    laid,
)

FACTORS = 10  # tensors that are multiplied with each other, at most
# How many factors stand inside and outside of a mean.
SIMPLE = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2))
LONG = ((2, 1), (1, 2), (2, 2))
LARGEST = 1 << 16  # numbers in a tensor, more are too slow
TOGETHER = 1 << 22  # numbers in a block
LEADS = 12  # products that others are made of


def plain(base: Base) -> Iterator[Block]:
    """mean(lead * inner, over) * outer, and lead * up to three factors."""
    for like in _shapes(base):
        yield from _of(base, like, base.leads, SIMPLE, 3)
        yield from _of(base, like, base.summed, (), 1)


def functions(base: Base) -> Iterator[Block]:
    """The lead times one or two functions of what is known."""
    factors = [(Factor(name),) for name in base.functions]
    pairs = [(*one, *two) for one, two in multisets(factors, 2)]
    for lead in _laid(base, "", base.leads):
        yield from _fitting(base, [Block("", lead, some) for some in ([()], factors, pairs)])


def moved(base: Base) -> Iterator[Block]:
    """The lead rotated, rolled, summed up along the last dimension, or transposed."""
    yield from _of(base, "", base.leads, (), 2)
    yield from _of(base, "", base.moved, (), 1)


def products(base: Base) -> Iterator[Block]:
    """A product of matrices with what any of the others give."""
    multiplied = {n: x for n, x in base.multiplied.items() if x.shape == base.o.shape}
    yield from _of(base, "", {**base.leads, **multiplied}, (), 1)
    for name in [*base.leads, *list(base.multiplied)[:LEADS]]:
        lead = base.lead(name)
        shapes = {x.shape: n for n, x in base.factors.items() if x.dim() > 1}
        for like in [name] if lead.dim() > 1 else shapes.values():
            if base.shape(like).numel() <= LARGEST:
                yield from _multiplied(base, _of(base, like, [name], SIMPLE[:4], 2))


def _multiplied(base: Base, blocks: Iterable[Block]) -> Iterator[Block]:
    """Every block times every matrix that gives the gradient's last dimensions."""
    for block in blocks:
        for other, b in base.matrices.items():
            for words in PRODUCTS:
                if _fits(words, base.shape(block.like), b.shape, base.o.shape):
                    yield replace(block, product=words, other=other)


@lru_cache(maxsize=4096)
def _fits(words: str, x: torch.Size, b: torch.Size, wanted: torch.Size) -> bool:
    """Whether a product of these shapes has the wanted one's last dimensions."""
    try:
        made = PRODUCTS[words](torch.empty(x, device="meta"), torch.empty(b, device="meta")).shape
    except RuntimeError:
        return False
    last = min(2, len(wanted))
    return last > 0 and made[-last:] == wanted[-last:]


def long(base: Base) -> Iterator[Block]:
    """The first again, with more factors."""
    yield from _of(base, "", base.leads, LONG, 4)


KINDS: tuple[Callable[[Base], Iterator[Block]], ...] = (plain, functions, moved, products, long)


def _shapes(base: Base) -> Iterator[str]:
    """Names of tensors of different shapes in which a term may be computed."""
    known = set()
    for name in ("", *base.leads, *base.factors):
        shape = base.shape(name)
        if shape not in known and shape.numel() <= LARGEST and len(shape) >= base.o.dim():
            known.add(shape)
            yield name


def _of(
    base: Base, like: str, leads: Iterable[str], sizes: Iterable[tuple[int, int]], alone: int
) -> Iterator[Block]:
    """lead * up to ``alone`` factors, and means with as many factors as ``sizes`` says."""
    dims = range(len(base.shape(like)))
    over = [c for n in (1, *range(2, len(dims) + 1)) for c in combinations(dims, n)]
    factors = _laid(base, like, base.factors)[:FACTORS]
    sets = [list(multisets(factors, count)) for count in range(max(alone, 2) + 1)]
    for lead in _laid(base, like, leads):
        blocks = [Block(like, lead, some) for some in sets[: alone + 1]]
        blocks += [Block(like, lead, sets[within], some, sets[behind])
                   for within, behind in sizes for some in over[: len(dims) + 2]]  # fmt: skip
        yield from _fitting(base, blocks)


def _fitting(base: Base, blocks: Iterable[Block]) -> Iterator[Block]:
    """Those that are not too large."""
    for block in blocks:
        count = len(block.inner) * len(block.outer)
        if 0 < count * base.shape(block.like).numel() <= TOGETHER:
            yield block


def _laid(base: Base, like: str, names: Iterable[str]) -> list[Factor]:
    """Every way in which the tensors of these names fit a shape."""
    shape, found = base.shape(like), []
    for name in names:
        x = base.factor(name)
        x = base.lead(name) if x is None else x
        found += [Factor(name, how) for how in LAID if laid(x, how, shape) is not None]
    return found
