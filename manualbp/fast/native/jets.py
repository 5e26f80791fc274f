"""Derivatives by the input in C++, by tiles of points: for which chains (csrc/taylor/).

The rule: what tiled.py takes on float32 and CPU, of Linear and activations, without residual
blocks. z of every layer is kept for the way down, unless all of them take ``FRESH_BYTES`` or more
and no layer is wider than ``WIDEST``: then they are computed again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manualbp.autograd import input_gradient, taylor
from manualbp.autograd.stages import Stages
from manualbp.fast.native import exact, tiled
from manualbp.maths.order import Order

MOST = 8  # shapes of x that are remembered
# Up to this width it takes as little time to compute z twice as to have fresh memory for it.
FRESH_BYTES, WIDEST = tiled.FRESH_BYTES, 128


class Native(NamedTuple):
    """The stages as C++ takes them."""

    chain: Any
    keeps: bool  # what the way down reads
    axes: Tensor | None  # in place of directions; None also where it needs no lines


def derivatives(
    stages: Stages, order: Order, few_outputs: bool, directions: Tensor | None, x: Tensor
) -> tuple[Tensor, ...] | None:
    """u, du and the second derivatives; None where the rule says no, or there is no library."""
    library = exact.library()
    if library is None:
        return None
    tensors = stages.tensors()
    given = [x, *tensors, *([] if directions is None else [directions])]
    shapes = tuple((t.shape, t.stride()) for t in given)
    key = order, few_outputs, x.dtype, x.device, shapes
    if key not in stages.native:
        if len(stages.native) == MOST:
            stages.native.clear()
        stages.native[key] = _native(stages, order, few_outputs, directions, x)
    found: Native | None = stages.native[key]
    if found is None:
        return None
    state = order, x.requires_grad, shapes
    if stages.guard is not None and len(stages.served) < MOST and state not in stages.served:
        stages.served.add(state)
        chain = found.chain, found.axes, found.keeps
        library.serve_derivatives(stages.guard, *chain, order.second, tensors, x, directions)
    lines = found.axes if directions is None else directions
    u_and_more: tuple[Tensor, ...] = library.derivatives(found.chain, x, lines, found.keeps)
    return u_and_more


def _native(
    stages: Stages, order: Order, few_outputs: bool, directions: Tensor | None, x: Tensor
) -> Native | None:
    net = None if stages.residual() else tiled.net_of(stages, x)
    if net is None:
        return None
    alone = copy.copy(stages)  # C++ holds it: stages, which hold what is made here, would never go
    alone.native, alone.guard = {}, None
    recorded = functools.partial(_recorded, alone, order, few_outputs)
    library = exact.library()
    second = [order.pairs] if order.summed else [[pair] for pair in order.pairs]
    asked = library.Order(order.lines, second, order.columns, order.shape)
    chain = library.JetChain(net, asked, few_outputs, recorded)
    widths = stages.widths
    kept = (1 + widths[-1] if few_outputs else order.rows) * sum(widths)
    if not few_outputs:
        kept -= order.seconds * widths[0]  # z'' of the first layer is zero
    fresh = len(x) * kept * x.itemsize >= FRESH_BYTES
    with torch.inference_mode(False):  # they stay for calls outside of it
        axes = None if few_outputs or directions is not None else taylor.axes(x)
    return Native(chain, not (fresh and max(widths) <= WIDEST), axes)


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
        grad_x, thetas = input_gradient.gradients(stages, saved, None, grads, wants, now[-1])
    else:
        grad_x, thetas = taylor.gradients(stages, order, saved, grads, wants, now[-1])
    return [*(g for g, t in zip(thetas, there, strict=True) if t), grad_x]
