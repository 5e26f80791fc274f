"""The gated MLP (maths/gated.py) as one torch.autograd.Function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from manualbp.autograd import torch_internals
from manualbp.autograd.chain import as_at_forward
from manualbp.autograd.torch_internals import wanted
from manualbp.maths import gated
from manualbp.maths.layers import Needs, Tape, Theta


class Gated(torch.autograd.Function):
    """``apply_gated(block, gate_last, *inputs(gate, up, down, x, gate_last))[0]``: o.

    The other outputs are activations that backward reads (chain.py).
    """

    @staticmethod
    def forward(ctx: Any, block: gated.GatedLayers, gate_last: bool, *tensors: Any) -> Any:
        gate, up, down = _by_side(tensors, gate_last)
        needs = _needs(ctx.needs_input_grad[2:], gate_last)
        o, tape = gated.forward(gate[2], block, gate[:2], up[:2], down, needs)
        ctx.save_for_backward(*tape)
        ctx.block, ctx.gate_last, ctx.needs = block, gate_last, needs
        ctx.weights = down[0], up[0], gate[0]
        ctx.present = [t is not None for t in tensors]
        ctx.set_materialize_grads(False)
        hidden = gated.hidden(block, tape, needs)
        ctx.hidden = [t is not None for t in hidden]
        return (o, *(t for t in hidden if t is not None))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        tape = list(ctx.saved_tensors)
        delta, *rest = grad_outputs
        hidden = iter(rest)
        grad_u, grad_f = (next(hidden) if there else None for there in ctx.hidden)
        asked = wanted(ctx, ctx.needs_input_grad[2:], ctx.present)
        needs = _needs(asked, ctx.gate_last)
        by: Any = "kernel"
        if torch.is_grad_enabled():
            by, tape = "recorded", _with_graphs(ctx, tape)
        found = gated.backward(delta, (grad_u, grad_f), ctx.block, tape, needs, by)
        return None, None, *inputs(found.gate, found.up, found.down, ctx.gate_last)


apply_gated = torch_internals.applied(Gated)


def inputs(gate: Theta, up: Theta, down: Theta, gate_last: bool) -> list[Any]:
    """What is per input of ``Gated``, of (x, weight, bias) for each projection; x of D is m.

    The later a projection is made, the earlier autograd comes back to it. In that order it adds up
    the gradients of x and of tied weights. ``gate_last`` says that G is made behind U.
    """
    first, second = (gate, up) if gate_last else (up, gate)
    return [*down[1:], *first[1:], first[0], *second[1:], second[0]]


def _by_side(values: Sequence[Any], gate_last: bool) -> tuple[Any, Any, Any]:
    """Back from ``inputs``: (weight, bias, x) of G and of U, (weight, bias) of D."""
    down, first, second = values[:2], values[2:5], values[5:]
    return (first, second, down) if gate_last else (second, first, down)


def _needs(wants: Sequence[bool], gate_last: bool) -> gated.Wanted:
    gate, up, down = _by_side(wants, gate_last)
    return gated.wanted(Needs(gate[2], tuple(gate[:2])), Needs(up[2], tuple(up[:2])), down)


def _with_graphs(ctx: Any, tape: Tape) -> Tape:
    """The tape with every weight that carries a graph, as it was at forward."""
    needs, at = (ctx.needs.down, ctx.needs.up, ctx.needs.gate), 0
    layers = ctx.block.down, ctx.block.up, ctx.block.gate
    for layer, weight, need in zip(layers, ctx.weights, needs, strict=True):
        values = tape[at + 1]
        if values is not None and need.theta[0]:
            tape[at + 1] = as_at_forward(weight, values)
        at += layer.keeps
    return tape
