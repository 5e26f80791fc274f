"""Backpropagation as torch.autograd.Functions with explicit gradients.

``Chain`` is the chain of layers. What it keeps for backward is what each layer's cache holds: h_l
only if dC/dW_l is wanted, W_l only if something below layer l wants a gradient, z_l or a_l as f'
needs, a bias never. So memory, and the edits in place that raise, are those of autograd.

Double backward: whatever is kept of the activations leaves the Function as an output of its own,
beside o, though nobody sees it. So, kept, it carries its graph: where autograd records the backward
pass (``create_graph=True``), the recursion depends on x, W and b through it, right to any order and
with nothing computed twice. Kept as plain tensors, activations would count as constants, silently
wrong. From there the recursion's own operators have derivatives. ``Recursion`` has one written by
hand, the R-operator of ``backprop.double_backward``; it runs where it was measured to be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from manualbp.fast.gpu import pairs
from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients
from manualbp.maths.layers import Cache, Layer, Linear, Needs, Theta, own, total


class Chain(torch.autograd.Function):
    """o = f_L(... f_1(x; theta_1) ...; theta_L), with dC/dx and every dC/dtheta by hand.

    ``Chain.apply(layers, paired, skip, *flat(layers, thetas), x)[0]``; x (..., I), o (..., O).
    ``paired`` has the recursion of pairs.py run. With ``skip``, which is x once more, o = skip +
    that; skip comes first because autograd adds up the gradients of x in that order. The other
    outputs are what backward reads.
    """

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[Layer], paired: bool, skip: Tensor | None, *tensors: Any
    ) -> Any:
        x, wants = tensors[-1], ctx.needs_input_grad
        needs = backprop.needs_of(wants[-1], by_layer(layers, wants[3:-1]))
        recursion = pairs if paired else backprop
        o, caches = recursion.forward(x, layers, by_layer(layers, tensors[:-1]), needs)
        ctx.save_for_backward(*[t for cache in caches for t in cache.tensors()])
        ctx.layers, ctx.paired = layers, paired
        ctx.caches = [cache.emptied() for cache in caches]
        ctx.present = [t is not None for t in (skip, *tensors)]
        ctx.hidden, activities = _hidden(caches, skip is not None)
        ctx.set_materialize_grads(False)
        return (o if skip is None else skip + o, *activities)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        caches = _filled(ctx)
        grad_output, *grad_hidden = grad_outputs
        wants = wanted(ctx, ctx.needs_input_grad[2:], ctx.present)
        needs = backprop.needs_of(wants[-1], by_layer(ctx.layers, wants[1:-1]))
        injected = [None] * (len(caches) - 1) + [grad_output]
        for i, grad in zip(ctx.hidden, grad_hidden, strict=True):
            if grad is not None:
                injected[i] = total(injected[i], grad)
        if torch.is_grad_enabled():
            trained = by_layer(ctx.layers, ctx.needs_input_grad[3:-1])
            weights = [theta[0] if theta else False for theta in trained]
            caches = list(map(as_at_forward, ctx.layers, caches, weights))
            grad_input, thetas, _ = _recorded(injected, ctx.layers, caches, needs)
        elif torch.compiler.is_compiling():
            grad_input, thetas, _ = backprop.backward(injected, ctx.layers, caches, needs)
        else:
            ctx.maybe_clear_saved_tensors()  # each is freed when its layer is done
            recursion = pairs if ctx.paired else backprop
            grad_input, thetas, _ = recursion.backward(injected, ctx.layers, caches, needs)
        grad_skip = grad_output if wants[0] else None
        return None, None, grad_skip, *flat(ctx.layers, thetas), grad_input


def _filled(ctx: Any) -> list[Cache]:
    """The caches with their tensors; an error of autograd's if freed or edited in place."""
    saved = iter(ctx.saved_tensors)
    return [cache.filled(saved) for cache in ctx.caches]


def as_at_forward(layer: Layer, cache: Cache, trained: bool) -> Cache:
    """With the requires_grad that W had at forward: autograd's linear keeps W^T, made back then."""
    weight = cache.theta[0] if isinstance(layer, Linear) else None
    if weight is None or weight.requires_grad == trained:
        return cache
    if trained:
        raise RuntimeError(
            "a weight was frozen between forward and a backward with create_graph=True; "
            "run forward again after requires_grad_(False)"
        )
    return cache._replace(theta=(weight.detach(), None))


def _recorded(
    injected: Sequence[Tensor | None], layers: Sequence[Layer], caches: list[Cache],
    needs: Sequence[Needs],
) -> Gradients:  # fmt: skip
    """The backward pass in a graph that is being recorded."""
    if (
        not any(layer.prefers_r_operator(c) for layer, c in zip(layers, caches, strict=True))
        or not all(layer.by_r_operator for layer in layers)
        or torch._C._are_functorch_transforms_active()  # these look inside a program
        or forward_ad._current_level >= 0
    ):
        return backprop.backward(injected, layers, caches, needs, "recorded")
    tensors = (t for cache in caches for t in cache.tensors())
    empty = [cache.emptied() for cache in caches]
    grad_input, *rest = Recursion.apply(layers, empty, needs, *injected, *tensors)  # type: ignore[no-untyped-call]
    count = sum(layer.parameters for layer in layers)
    return Gradients(grad_input, by_layer(layers, rest[:count]), [])


class Recursion(torch.autograd.Function):
    """The backward pass of a ``Chain`` as a function that has derivatives itself.

    ``Recursion.apply(layers, caches, needs, *injected, *tensors of the caches)``; returns dC/dx,
    every dC/dtheta, and the deltas that its own backward reads.
    """

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[Layer], caches: Sequence[Cache], needs: Sequence[Needs],
        *tensors: Any,
    ) -> Any:  # fmt: skip
        injected, kept = tensors[: len(layers)], tensors[len(layers) :]
        each = iter(kept)
        filled = [cache.filled(each) for cache in caches]
        grad_input, thetas, deltas = backprop.backward(injected, layers, filled, needs, "recorded")
        deltas = list(map(own, deltas))
        # A delta that is no sum is what came in; the others leave, so as to carry their graph.
        found = [i for i, d in enumerate(deltas) if d is not None and d is not injected[i]]
        ctx.save_for_backward(*kept, *deltas)
        ctx.layers, ctx.caches, ctx.found = layers, caches, found
        ctx.present = [t is not None for t in tensors]
        ctx.set_materialize_grads(False)
        gradients = [grad_input, *flat(layers, thetas)]
        return (*map(own, gradients), *[deltas[i] for i in found])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        layers, count = ctx.layers, len(ctx.layers)
        saved = iter(ctx.saved_tensors)
        caches = [cache.filled(saved) for cache in ctx.caches]
        deltas = list(saved)
        v_input, *rest = grad_outputs
        v_deltas: list[Tensor | None] = [None] * count
        for i, v in zip(ctx.found, rest[len(rest) - len(ctx.found) :], strict=True):
            v_deltas[i] = v
        v_thetas = by_layer(layers, rest[: len(rest) - len(ctx.found)])
        asked = iter(wanted(ctx, ctx.needs_input_grad[3:], ctx.present)[count:])
        flags = [cache.filled(asked) for cache in ctx.caches]
        needs = [Needs(bool(flag.h or flag.a), tuple(map(bool, flag.theta))) for flag in flags]
        tangents, found = backprop.double_backward(
            v_input, v_thetas, v_deltas, deltas, layers, caches, needs
        )
        tensors = (t for c, like in zip(found, ctx.caches, strict=True) for t in c.padded(like))
        pairs = zip((*tangents, *tensors), ctx.present, strict=True)
        return None, None, None, *(t if there else None for t, there in pairs)


def _hidden(caches: Sequence[Cache], residual: bool) -> tuple[list[int], list[Tensor]]:
    """The layers whose output some cache holds, and those outputs; o itself leaves anyway."""
    read = [cache.h for cache in caches[1:]] + [None]
    outputs = [h if cache.a is None else cache.a for cache, h in zip(caches, read, strict=True)]
    if not residual:
        outputs[-1] = None
    indices = [i for i, a in enumerate(outputs) if a is not None]
    return indices, [a for a in outputs if a is not None]


def wanted(ctx: Any, needs: Sequence[bool], present: Sequence[bool]) -> list[bool]:
    """The inputs whose gradient this very backward pass asks for, as autograd prunes its nodes.

    Args:
        ctx: of a Function whose tensor inputs come last.
        needs: its ``needs_input_grad`` for those.
        present: which of those are tensors; the others are None.
    """
    if torch.compiler.is_compiling():  # compiled autograd, which cannot ask, prunes by itself
        return list(needs)
    nodes = iter(ctx.next_functions)
    there = [next(nodes)[0] if found else None for found in present]
    return [need and _runs(node) for need, node in zip(needs, there, strict=True)]


def _runs(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # how it answers for a leaf that autograd.grad was asked for
        return True


def flat(layers: Sequence[Layer], thetas: Sequence[Theta]) -> list[Any]:
    """What is per parameter, in the order in which autograd comes back to it.

    That is the last layer first, and of a Linear the bias first: so gradients of a tied weight are
    added up, and so data-parallel training lays them into its buckets.
    """
    found: list[Any] = []
    for layer, theta in zip(reversed(layers), reversed(thetas), strict=True):
        found += theta[::-1] if layer.last_first else theta
    return found


def by_layer(layers: Sequence[Layer], values: Sequence[Any]) -> list[Any]:
    """Back from ``flat``: a tuple for each layer, first layer first."""
    found, end = [], len(values)
    for layer in layers:
        theta = tuple(values[end - layer.parameters : end]) if layer.parameters else ()
        found.append(theta[::-1] if layer.last_first else theta)
        end -= len(theta)
    return found
