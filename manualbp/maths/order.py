"""Which second derivatives go up beside the value: pairs (k, m) of the lines x + t v_k.

    laplacian    every (k, k), added up in one      P = 1
    diagonal     every (k, k)                       P = K
    hessian      every (k, m) with k <= m           P = K (K + 1) / 2;  (m, k) is (k, m)
    pairs        the given ones, each once          P of at most that

A Laplacian goes up as one quantity (taylor.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]
Second = Literal["laplacian", "diagonal", "hessian"] | Sequence[Pair] | None


class Index(NamedTuple):
    """An Order as tensors of numbers."""

    left: Tensor  # k of every pair
    right: Tensor  # m
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Order:
    """K lines through each point, and P second derivatives along them."""

    second: Second  # what it was made from
    lines: int  # K
    asked: tuple[Pair, ...] = ()  # of which second derivatives are returned
    shape: tuple[int, ...] = ()  # of these
    summed: bool = False  # whether they are added up in one
    indices: dict[torch.device, Index] = field(default_factory=dict, repr=False)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """With k <= m, each once: the second derivatives that go up, or are summed."""
        return tuple(dict.fromkeys((min(pair), max(pair)) for pair in self.asked))

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Which of the second derivatives that go up each of the asked ones is."""
        place = {pair: p for p, pair in enumerate(self.pairs)}
        return (0,) if self.summed else tuple(place[min(p), max(p)] for p in self.asked)

    @cached_property
    def seconds(self) -> int:
        """P."""
        return 1 if self.summed else len(self.pairs)

    @cached_property
    def rows(self) -> int:
        """1 + K + P: the rows of a product for each point."""
        return 1 + self.lines + self.seconds

    @cached_property
    def of_all_lines(self) -> bool:
        """Whether the pairs are (0, 0), ..., (K - 1, K - 1)."""
        return self.pairs == tuple((k, k) for k in range(self.lines))

    def index(self, device: torch.device) -> Index:
        """The numbers on a device, kept: to send them there in each call would take long."""
        if device not in self.indices:
            with torch.inference_mode(False):  # they stay for calls outside of it
                numbers = (*zip(*self.pairs, strict=True), self.columns)
                self.indices[device] = Index(*(torch.tensor(n, device=device) for n in numbers))
        return self.indices[device]


MOST = 64  # that are remembered: a program may draw other pairs at every step
_orders: dict[tuple[Second, int], Order] = {}  # torch.compile warns of functools.lru_cache


def order_of(second: Second, lines: int) -> Order:
    """What ``second`` asks for, the same object while it is remembered; pairs as a tuple."""
    found = _orders.get((second, lines))
    if found is None:
        if len(_orders) >= MOST:
            _orders.clear()
        found = _orders[second, lines] = _order_of(second, lines)
    return found


def _order_of(second: Second, lines: int) -> Order:
    if second is None:
        return Order(second, lines)
    if second == "hessian":
        every = tuple(product(range(lines), range(lines)))
        return Order(second, lines, every, (lines, lines))
    if not isinstance(second, str):
        return Order(second, lines, tuple(second), (len(second),))
    diagonal = tuple((k, k) for k in range(lines))
    if second == "laplacian":
        return Order(second, lines, diagonal, summed=True)
    return Order(second, lines, diagonal, (lines,))
