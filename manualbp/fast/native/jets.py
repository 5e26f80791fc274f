"""Derivatives by the input in C++, by tiles of points: for which chains (csrc/taylor/).

The rule: what tiled.py takes on float32 and CPU, of Linear and activations, without residual
blocks. z of every layer is kept for the way down, unless one of them takes ``FRESH_BYTES`` or more
and no layer is wider than ``WIDEST``: then they are computed again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from manualbp.autograd import taylor
from manualbp.autograd.taylor import Stages
from manualbp.fast.native import exact, tiled
from manualbp.maths.taylor import Second


class Jets:
    """Stages that run by tiles in C++."""

    def __init__(self, chain: Any, widest: int) -> None:
        self.chain, self.widest = chain, widest

    def apply(self, second: Second, lines: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """u, du and the second derivatives."""
        fresh = len(x) * taylor.rows(lines, second) * self.widest * x.itemsize >= tiled.FRESH_BYTES
        keeps = not fresh or self.widest > tiled.WIDEST
        found: tuple[Tensor, ...] = exact.library().derivatives(self.chain, x, lines, keeps)
        return found


def jets(stages: Stages, second: Second, x: Tensor) -> Jets | None:
    """The stages on such an x; None where the rule says no, or there is no library."""
    net = None if stages.residual() else tiled.net_of(stages, x)
    if net is None:
        return None
    recorded = functools.partial(_recorded, stages, second)
    chain = exact.library().JetChain(net, second or "", recorded)
    return Jets(chain, max(len(t) for t in stages.tensors()))


def _recorded(
    stages: Stages, second: Second, x: Tensor, lines: Tensor, values: Sequence[Tensor],
    grads: Sequence[Tensor | None], then: Sequence[bool], now: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients in a graph that is being recorded, or of a batch of cotangents."""
    all_values, trained, wanted = iter(values), iter(then), iter(now)
    there = stages.present
    saved = taylor.Saved(
        lines, x, [next(all_values) if t else None for t in there],
        [p if p is not None and next(trained) else None for p in stages.parameters], then[-1],
    )  # fmt: skip
    wants = [t and next(wanted) for t in there]
    grad_x, found = taylor.gradients(stages, second, saved, grads, wants, now[-1])
    return [*(g for g, t in zip(found, there, strict=True) if t), grad_x]
