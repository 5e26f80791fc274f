"""Backpropagation as torch.autograd.Functions with explicit gradients.

``Chain`` is the chain of layers. What it keeps for backward: h_l only if dC/dW_l is wanted, W_l
only if something below layer l wants a gradient, z_l or a_l as f' needs, a bias never. So memory,
and the edits in place that raise, are those of autograd, with two exceptions: the input of the
first layer that wants a gradient is always kept, because a second derivative starts from it; and as
the chain is one node, an edit raises also where only a gradient above it is asked for.

Double backward: when autograd records the backward pass (``create_graph=True``), the chain is
recomputed from that input and the parameters, and the recursion runs on tensors that carry a
graph, right to any order. Using the saved activations instead would treat them as constants,
silently wrong. In the recorded recursion every multiplication by f' is a ``Backward``: it gives
the kernel's value, so the bits stay autograd's, and is itself differentiated by f' and f''.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from manualbp import backprop
from manualbp.activations import Activation
from manualbp.backprop import Cache, Gradients, Layer, Needs


class Rule(Protocol):
    """A gradient rule, as activations and losses are: its value, and the value's own gradients."""

    def backward(self, delta: Tensor, x: Tensor, /, *constants: Any) -> Tensor:
        """The gradient by x, from delta, the gradient of the result; rounded like autograd."""

    def formula(self, delta: Tensor, x: Tensor, /, *constants: Any) -> Tensor:
        """The same as it is written."""

    def double_backward(
        self, v: Tensor, delta: Tensor, x: Tensor, /, *constants: Any
    ) -> tuple[Tensor, Tensor]:
        """The gradients of sum(v * backward(delta, x)) by delta and by x."""


class Backward(torch.autograd.Function):
    """rule.backward(delta, x, *constants), to be differentiated once more by written formulas.

    ``watched`` are tensors the rule holds itself; they are kept here so that an edit is noticed.
    """

    @staticmethod
    def forward(
        ctx: Any, rule: Rule, watched: Sequence[Tensor | None], delta: Tensor, x: Tensor, *rest: Any
    ) -> Tensor:
        ctx.rule, ctx.rest = rule, len(rest)
        ctx.save_for_backward(delta, x, *rest, *watched)
        return rule.backward(delta, x, *rest)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        delta, x, *rest = ctx.saved_tensors
        rest = rest[: ctx.rest]
        gradients = ctx.rule.double_backward(grad_outputs[0], delta, x, *rest)
        return (None, None, *gradients, *[None] * ctx.rest)


def differentiable(
    rule: Rule, delta: Tensor, x: Tensor, *rest: Any, watched: Sequence[Tensor | None] = ()
) -> Tensor:
    """rule.backward(delta, x, *rest) in a graph that is being recorded."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return rule.formula(delta, x, *rest)  # these look inside a program
    return Backward.apply(rule, watched, delta, x, *rest)  # type: ignore[no-untyped-call]


class Chain(torch.autograd.Function):
    """o = f_L(... f_1(x W_1^T + b_1) ... W_L^T + b_L), with dC/dx, dC/dW_l, dC/db_l by hand.

    ``Chain.apply(activations, W_L, b_L, ..., W_1, b_1, x)``; x (..., I_1), W_l (O_l, I_l),
    b_l (O_l,) or None. Returns o (..., O_L). See ``backprop`` for the formulas. The last layer
    comes first because that is the order in which autograd adds up the gradients of a tied weight.
    """

    @staticmethod
    def forward(ctx: Any, activations: Sequence[Activation], *tensors: Any) -> Tensor:
        *parameters, x = tensors
        ctx.layers = _layers(activations, parameters)
        *wants, wants_x = ctx.needs_input_grad[1:]
        ctx.needs = Needs(wants_x, tuple(wants[-2::-2]), tuple(wants[::-2]))
        output, caches = backprop.forward(x, ctx.layers, ctx.needs)
        ctx.save_for_backward(*(t for c in caches for t in (c.h, c.weight, c.activity)))
        ctx.caches = [c._replace(h=None, weight=None, activity=None) for c in caches]
        ctx.versions = _versions(ctx.layers[ctx.needs.first :])
        ctx.set_materialize_grads(False)
        # F.linear may return a view, which nobody may edit in place once it leaves a Function.
        return torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad_output,) = grad_outputs
        saved = ctx.saved_tensors  # raises, in autograd's words, if freed or edited in place
        if grad_output is None:
            return (None,) * len(ctx.needs_input_grad)
        tensors = zip(ctx.caches, saved[0::3], saved[1::3], saved[2::3], strict=True)
        caches = [c._replace(h=h, weight=w, activity=activity) for c, h, w, activity in tensors]
        if torch.is_grad_enabled():
            gradients = _recorded_backward(ctx, grad_output, caches)
        else:
            gradients = backprop.backward(grad_output, ctx.layers, caches, ctx.needs)
        pairs = zip(reversed(gradients.weights), reversed(gradients.biases), strict=True)
        return (None, *(g for pair in pairs for g in pair), gradients.input)


def _layers(activations: Sequence[Activation], parameters: Sequence[Tensor | None]) -> list[Layer]:
    """From W_L, b_L, ..., W_1, b_1."""
    pairs = zip(parameters[-2::-2], parameters[::-2], activations, strict=True)
    return [Layer(w, b, f) for w, b, f in pairs if w is not None]


def _versions(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """What tells an edited parameter; an edit in place through ``.data`` stays unseen."""
    parameters = (p for layer in layers for p in (layer.weight, layer.bias) if p is not None)
    return [(p._version, p.data_ptr()) for p in parameters]


def _recorded_backward(ctx: Any, grad_output: Tensor, caches: Sequence[Cache]) -> Gradients:
    """The backward pass as recorded operations on x, W and b, for derivatives of any order."""
    first = ctx.needs.first
    h, layers = caches[first].h, ctx.layers[first:]
    needs = Needs(ctx.needs.input, ctx.needs.weights[first:], ctx.needs.biases[first:])
    if h is None:
        raise RuntimeError("the input of the first layer was not kept")
    if _versions(layers) != ctx.versions:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            "operation: a weight or bias changed between forward and a backward with "
            "create_graph=True; run forward again after the change"
        )
    layers = [
        Layer(_as_at_forward(layer.weight, w), _as_at_forward(layer.bias, b), layer.activation)
        for layer, w, b in zip(layers, needs.weights, needs.biases, strict=True)
    ]
    with torch.autocast(grad_output.device.type, enabled=False):  # as it was at forward
        _, recorded = backprop.forward(h, layers)
    gradients = backprop.backward(grad_output, layers, recorded, needs, _through)
    below: list[Tensor | None] = [None] * first
    return Gradients(gradients.input, below + gradients.weights, below + gradients.biases)


def _as_at_forward(parameter: Any, wanted: bool) -> Any:
    """The parameter with the requires_grad it had at forward."""
    if parameter is None or parameter.requires_grad == wanted:
        return parameter
    if wanted:
        raise RuntimeError(
            "a weight or bias was frozen between forward and a backward with create_graph=True; "
            "run forward again after requires_grad_(False)"
        )
    return parameter.detach()


def _through(activation: Activation, delta: Tensor, cache: Tensor) -> Tensor:
    return differentiable(activation.recorded, delta, cache)
