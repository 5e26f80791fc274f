"""The chain of layers as one torch.autograd.Function with explicit gradients.

What is kept for backward: h_l only if dC/dW_l is wanted, W_l only if something below layer l wants
a gradient, z_l or a_l as f' needs, a bias never. So memory, and the places where an in-place edit
raises, are those of autograd. One exception: the input of the first layer that wants a gradient is
always kept, because a second derivative starts from it.

Double backward: when autograd records the backward pass (``create_graph=True``), the chain is
recomputed from that input and the parameters, and the same recursion runs on the written
formulas f'. Every step is then an ordinary recorded tensor operation, right to any order. Using the
saved activations instead would treat them as constants, silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manualbp import backprop
from manualbp.activations import Activation
from manualbp.backprop import Cache, Gradients, Layer, Needs


class Chain(torch.autograd.Function):
    """o = f_L(... f_1(x W_1^T + b_1) ... W_L^T + b_L), with dC/dx, dC/dW_l, dC/db_l by hand.

    ``Chain.apply(activations, x, W_1, b_1, ..., W_L, b_L)``; x (..., I_1), W_l (O_l, I_l),
    b_l (O_l,) or None. Returns o (..., O_L). See ``backprop`` for the formulas.
    """

    @staticmethod
    def forward(
        ctx: Any, activations: tuple[Activation, ...], x: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        layers = _layers(activations, parameters)
        output, caches = backprop.forward(x, layers)

        wants_x, *wants = ctx.needs_input_grad[1:]
        ctx.needs = Needs(wants_x, tuple(wants[0::2]), tuple(wants[1::2]))
        ctx.layers = layers
        ctx.versions = [p._version for p in parameters if p is not None]
        ctx.save_for_backward(*_kept(caches, ctx.needs))
        ctx.caches = [c._replace(h=None, weight=None, activity=None) for c in caches]
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad_output,) = grad_outputs
        saved = ctx.saved_tensors  # raises, in autograd's words, if freed or edited in place
        if grad_output is None:
            return (None, None, *[None] * (2 * len(ctx.layers)))
        tensors = zip(ctx.caches, saved[0::3], saved[1::3], saved[2::3], strict=True)
        caches = [c._replace(h=h, weight=w, activity=activity) for c, h, w, activity in tensors]
        if torch.is_grad_enabled():
            gradients = _recorded_backward(ctx, grad_output, caches)
        else:
            gradients = backprop.backward(grad_output, ctx.layers, caches, ctx.needs)
        pairs = zip(gradients.weights, gradients.biases, strict=True)
        return (None, gradients.input, *(g for pair in pairs for g in pair))


def _layers(activations: Sequence[Activation], parameters: Sequence[Tensor | None]) -> list[Layer]:
    pairs = zip(parameters[0::2], parameters[1::2], activations, strict=True)
    return [Layer(w, b, f) for w, b, f in pairs if w is not None]


def _first(needs: Needs) -> int:
    """The first layer at which a gradient is wanted; what lies below it is a constant."""
    wanted = [w or b for w, b in zip(needs.weights, needs.biases, strict=True)]
    return 0 if needs.input else wanted.index(True)


def _kept(caches: Sequence[Cache], needs: Needs) -> list[Tensor | None]:
    """h, W and z or a of every layer; None for those that ``backward`` will not read."""
    first, kept = _first(needs), []
    for i, cache in enumerate(caches):
        kept += [
            cache.h if needs.weights[i] or i == first else None,
            cache.weight if needs.upstream(i) else None,
            cache.activity if i >= first else None,
        ]
    return kept


def _recorded_backward(ctx: Any, grad_output: Tensor, caches: Sequence[Cache]) -> Gradients:
    """The backward pass as recorded operations on x, W and b, for derivatives of any order."""
    versions = [p._version for ly in ctx.layers for p in (ly.weight, ly.bias) if p is not None]
    if versions != ctx.versions:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            "operation: a weight or bias changed between forward and a backward with "
            "create_graph=True; run forward again after the change"
        )
    first, needs = _first(ctx.needs), ctx.needs
    h = caches[first].h
    if h is None:
        raise RuntimeError("the input of the first layer was not kept")
    layers = ctx.layers[first:]
    _, recorded = backprop.forward(h, layers)
    gradients = backprop.backward(
        grad_output,
        layers,
        recorded,
        Needs(needs.input, needs.weights[first:], needs.biases[first:]),
        exact=False,
    )
    below: list[Tensor | None] = [None] * first
    return Gradients(gradients.input, below + gradients.weights, below + gradients.biases)
