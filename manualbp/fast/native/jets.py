"""Derivatives by the input in C++, by tiles of points: for which chains (csrc/taylor/).

The rule: what tiled.py takes on float32 and CPU, of Linear and activations, without residual
blocks. z of every layer is kept for the way down, unless one of them takes ``FRESH_BYTES`` or more
and no layer is wider than ``WIDEST``: then they are computed again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from manualbp.autograd import input_gradient, taylor
from manualbp.autograd.stages import Stages
from manualbp.fast.native import exact, tiled
from manualbp.maths.order import Order

MOST = 8  # shapes of x that are remembered


def derivatives(
    stages: Stages, order: Order, few_outputs: bool, lines: Tensor | None, x: Tensor
) -> tuple[Tensor, ...] | None:
    """u, du and the second derivatives; None where the rule says no, or there is no library."""
    library = exact.library()
    if library is None:
        return None
    key = order, few_outputs, x.shape, x.dtype, x.device, None if lines is None else lines.shape
    if key not in stages.native:
        if len(stages.native) == MOST:
            stages.native.clear()
        stages.native[key] = _chain(stages, order, few_outputs, lines, x)
    found = stages.native[key]
    return None if found is None else library.derivatives(found[0], x, lines, found[1])


def _chain(
    stages: Stages, order: Order, few_outputs: bool, lines: Tensor | None, x: Tensor
) -> tuple[Any, bool] | None:
    """The stages as C++ takes them, and whether to keep what the way down reads."""
    net = None if stages.residual() else tiled.net_of(stages, x)
    if net is None:
        return None
    alone = copy.copy(stages)  # C++ holds it: stages, which hold what is made here, would never go
    alone.native = {}
    recorded = functools.partial(_recorded, alone, order, few_outputs)
    second = [order.pairs] if order.summed else [[pair] for pair in order.pairs]
    library = exact.library()
    asked = library.Order(order.lines, second, order.columns, order.shape)
    chain = library.JetChain(net, asked, few_outputs, recorded)
    widths = [len(t) for t in stages.tensors()]  # the last layer's first
    rows = 1 + widths[0] if few_outputs else order.rows
    fresh = len(x) * rows * max(widths) * x.itemsize >= tiled.FRESH_BYTES
    return chain, not (fresh and max(widths) <= tiled.WIDEST)


def _recorded(
    stages: Stages, order: Order, few_outputs: bool, x: Tensor, lines: Tensor | None,
    values: Sequence[Tensor], grads: Sequence[Tensor | None], then: Sequence[bool],
    now: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients in a graph that is being recorded, or of a batch of cotangents."""
    all_values, trained, wanted = iter(values), iter(then), iter(now)
    there = stages.present
    saved = taylor.Saved(
        lines, x, [next(all_values) if t else None for t in there],
        [p if p is not None and next(trained) else None for p in stages.parameters], then[-1],
    )  # fmt: skip
    wants = [t and next(wanted) for t in there]
    if few_outputs:
        found = input_gradient.gradients(stages, saved, None, grads, wants)
        grad_x, thetas = found.input if now[-1] else None, found.thetas
    else:
        grad_x, thetas = taylor.gradients(stages, order, saved, grads, wants, now[-1])
    return [*(g for g, t in zip(thetas, there, strict=True) if t), grad_x]
