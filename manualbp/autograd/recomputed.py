"""A chain that keeps next to nothing: its activations are computed once more in backward.

    full memory   what backward reads: an activation of every layer (chain.py)
    low memory    x and the parameters

In exact mode the same operators run again over the whole batch, so every bit stays. In fast mode
long batches go tile by tile, forward and backward. Then backward too has no more than a tile's
activations at a time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.segment import Segment
from manualbp.autograd.torch_internals import nobody_records, wanted
from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients, Step
from manualbp.maths.layers import Linear


class Tiling(Protocol):
    """A way to run a chain over one tile of rows after the other."""

    def forward(self, x: Tensor, skip: Tensor | None, steps: list[Step]) -> Tensor:
        """o, or skip + o."""

    def backward(self, x: Tensor, delta: Tensor, steps: list[Step]) -> Gradients:
        """dC/dx and every dC/dtheta from delta = dC/do, with the activations computed again."""


class Recomputed(torch.autograd.Function):
    """``apply_recomputed(segment, tiles, skip, *segment.parameters, x)``: o, or skip + o.

    ``tiles`` None runs the whole batch at once. Where backward is recorded, the activations are
    computed from the x and the parameters that carry their graphs, in that graph. So derivatives
    are right to any order.
    """

    @staticmethod
    def forward(
        ctx: Any, segment: Segment, tiles: Tiling | None, skip: Tensor | None, *tensors: Any
    ) -> Any:
        *parameters, x = tensors
        steps = backprop.without_gradients(segment.layers, segment.thetas)
        if tiles is not None:
            o = tiles.forward(x, skip, steps)
        else:
            o, _ = backprop.forward(x, steps)
            o = o if skip is None else skip + o
        last = segment.layers[-1]
        if isinstance(last, Linear) and not last.reads_forward():
            parameters[0] = None  # the last bias: nothing but o depends on it
        # Each parameter as it is now, and for a recorded backward with its graph.
        values = [None if t is None else t.detach() for t in parameters]
        trained = ctx.needs_input_grad[3:-1]
        graphs = [t if trains else None for t, trains in zip(parameters, trained, strict=True)]
        ctx.save_for_backward(x, *values, *graphs)
        ctx.segment, ctx.tiles = segment, tiles
        ctx.present = (skip is not None, *segment.present, True)
        ctx.set_materialize_grads(False)
        return o

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, *saved = ctx.saved_tensors  # raises autograd's error if freed, or edited in place
        (delta,) = grad_outputs
        segment: Segment = ctx.segment
        wants_skip, *wants, wants_x = wanted(ctx, ctx.needs_input_grad[2:], ctx.present)
        grad_skip = delta if wants_skip else None
        if delta is None or not (wants_x or any(wants)):
            return None, None, grad_skip, *[None] * (len(wants) + 1)
        values, graphs = saved[: len(wants)], saved[len(wants) :]
        if torch.is_grad_enabled():
            x = x if ctx.needs_input_grad[-1] else x.detach()  # a constant at forward
            values = list(map(with_graph, values, graphs))
        layers = segment.layers
        thetas, by_layer = (backprop.by_layer(layers, each) for each in (values, wants))
        steps = backprop.steps(layers, thetas, by_layer, wants_x)
        if ctx.tiles and nobody_records(delta) and not torch.is_autocast_enabled(x.device.type):
            found = ctx.tiles.backward(x, delta, steps)
        else:
            found = whole(x, delta, steps)
        return None, None, grad_skip, *found.thetas, found.input


apply_recomputed = torch_internals.applied(Recomputed)


def whole(x: Tensor, delta: Tensor, steps: list[Step]) -> Gradients:
    """The backward pass over all rows, after a second forward. The first was outside autocast."""
    with _no_autocast(x.device.type):
        tape = backprop.tape_of(x, steps)
    by: Any = "recorded" if torch.is_grad_enabled() else "kernel"
    return backprop.backward(delta, steps, tape, by, over=nobody_records(delta))


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def with_graph(value: Tensor | None, parameter: Tensor | None) -> Tensor | None:
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
