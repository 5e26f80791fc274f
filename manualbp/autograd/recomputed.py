"""Memory or time: what a chain keeps for backward, and the chain that keeps next to nothing.

    full   what backward reads: an activation of every layer
    low    x and the parameters; backward computes the activations once more

In exact mode they are computed by the same operators over the whole batch, so every bit stays. In
fast mode long batches go tile by tile (tiles.py), forward and backward: then backward, too, has no
more than a tile's activations at a time, and where the chain is narrow that is the faster way, so
that it is taken with full memory, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from manualbp.autograd.chain import Chain, by_layer, flat, wanted
from manualbp.fast.cpu import tiles
from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients
from manualbp.maths.layers import (
    Elementwise,
    Layer,
    LayerNorm,
    Linear,
    Needs,
    RMSNorm,
    Theta,
    alone,
)

# Layers that compute the same from the same input every time.
CONSTANT = (Linear, Elementwise, LayerNorm, RMSNorm)
# In fast mode a chain this narrow, with an activation this large, is faster by tiles: to compute
# activations twice costs products, cheap where narrow, and saves memory: dear where malloc takes it
# from the system each time, and already dear where it does not fit the cache, if products are those
# of float32 and x wants no gradient, which often is to be differentiated again.
WIDEST, FRESH_BYTES, LARGE_BYTES = 256, 2**25, 2**23


def run_chain(
    layers: Sequence[Layer], thetas: Sequence[Theta], skip: Tensor | None, x: Tensor,
    low: bool = False, paired: bool = False,
) -> Tensor:  # fmt: skip
    """o by the Function that suits: one that keeps activations, or one that recomputes them.

    ``paired``: by the recursion of pairs.py, where nothing is recomputed.
    """
    parameters = flat(layers, thetas)
    tile = _tile(layers, thetas, x) if low or _large(x, thetas) else 0
    if tile or (low and all(isinstance(layer, CONSTANT) for layer in layers)):
        return Recomputed.apply(layers, tile, skip, *parameters, x)  # type: ignore[no-untyped-call]
    return Chain.apply(layers, paired, skip, *parameters, x)[0]  # type: ignore[no-untyped-call]


def _large(x: Tensor, thetas: Sequence[Theta]) -> bool:
    """Whether tiles were measured to be faster: several products of few columns, many rows."""
    widths = [w.shape[0] for theta in thetas for w in theta[:1] if w is not None and w.dim() == 2]
    widest = max(widths, default=0)
    least = LARGE_BYTES if x.dtype is torch.float32 and not x.requires_grad else FRESH_BYTES
    large = x.numel() // max(x.shape[-1], 1) * widest * x.element_size() >= least
    return large and widest <= WIDEST and len(widths) > 1


def _tile(layers: Sequence[Layer], thetas: Sequence[Theta], x: Tensor) -> int:
    """The rows of a tile; 0 for the whole batch at once."""
    count = x.numel() // max(x.shape[-1], 1) if x.dim() > 1 else 1
    if count < 2 * tiles.LEAST_ROWS or not (x.is_cpu and x.dtype in (torch.float32, torch.float64)):
        return 0  # too few; or a sum of many tiles needs more digits
    if not tiles.rowwise(layers) or any(type(layer) is Linear for layer in layers):
        return 0  # the second is the exact mode: one sum over all rows
    tile = tiles.tile_rows(count, thetas, x.itemsize)
    return tile if count > tile else 0


class Recomputed(torch.autograd.Function):
    """A ``Chain`` that keeps x and the parameters, and computes its activations in backward.

    ``Recomputed.apply(layers, tile, skip, *flat(layers, thetas), x)``; o, by tiles of so many rows,
    or with 0 whole. Where backward is recorded, they are computed from the x and the parameters
    that carry their graphs, in that graph: so derivatives are right to any order.
    """

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[Layer], tile: int, skip: Tensor | None, *tensors: Any
    ) -> Any:
        *parameters, x = tensors
        thetas = by_layer(layers, parameters)
        if tile:
            o = tiles.forward(x, skip, layers, thetas, tile)
        else:
            o, _ = backprop.forward(x, layers, thetas, backprop.nothing(thetas))
            o = o if skip is None else skip + o
        if not layers[-1].reads_forward() and isinstance(layers[-1], Linear):
            parameters[0] = None  # the last bias: nothing but o depends on it
        # Each parameter as it is now, and for a recorded backward with its graph.
        values = [None if t is None else t.detach() for t in parameters]
        trained = ctx.needs_input_grad[3:-1]
        graphs = [t if trains else None for t, trains in zip(parameters, trained, strict=True)]
        ctx.save_for_backward(x, *values, *graphs)
        ctx.layers, ctx.tile = layers, tile
        ctx.present = [t is not None for t in (skip, *tensors)]
        ctx.set_materialize_grads(False)
        return o

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, *saved = ctx.saved_tensors  # raises, in autograd's words, if freed or edited in place
        (delta,) = grad_outputs
        wants_skip, *wants, wants_x = wanted(ctx, ctx.needs_input_grad[2:], ctx.present)
        needs = backprop.needs_of(wants_x, by_layer(ctx.layers, wants))
        if delta is None or not any(needs):
            return None, None, delta if wants_skip else None, *[None] * (len(wants) + 1)
        values, graphs = saved[: len(wants)], saved[len(wants) :]
        if torch.is_grad_enabled():
            x = x if ctx.needs_input_grad[-1] else x.detach()  # a constant at forward
            values = list(map(_with_graph, values, graphs))
        thetas = by_layer(ctx.layers, values)
        if ctx.tile and alone(delta) and not torch.is_autocast_enabled(x.device.type):
            found = tiles.backward(x, delta, ctx.layers, thetas, needs, ctx.tile)
        else:
            found = _whole(x, delta, ctx.layers, thetas, needs)
        grad_skip = delta if wants_skip else None
        return None, None, grad_skip, *flat(ctx.layers, found.thetas), found.input


def _whole(
    x: Tensor, delta: Tensor, layers: Sequence[Layer], thetas: Sequence[Theta],
    needs: Sequence[Needs],
) -> Gradients:  # fmt: skip
    """The backward pass over all rows, after a second forward; the first was outside autocast."""
    with _no_autocast(x.device.type):
        caches = backprop.caches_of(x, layers, thetas, needs)
    injected = [None] * (len(layers) - 1) + [delta]
    by: Literal["recorded", "backward"] = "recorded" if torch.is_grad_enabled() else "backward"
    return backprop.backward(injected, layers, caches, needs, by)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def _with_graph(value: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    """The parameter as a recorded backward has to read it: as it was at forward."""
    if value is None or parameter is None:
        return value  # a constant back then
    if not parameter.requires_grad:
        raise RuntimeError(
            "a parameter was frozen between forward and a backward with create_graph=True; "
            "run forward again after requires_grad_(False)"
        )
    if not (parameter.is_set_to(value) or torch.equal(parameter, value)):
        raise RuntimeError(
            "a parameter's data was exchanged between forward and a backward with "
            "create_graph=True; run forward again"
        )
    return parameter
