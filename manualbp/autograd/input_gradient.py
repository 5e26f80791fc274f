"""maths/input_gradient.py as a torch.autograd.Function: u and du of a chain with few outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.recomputed import with_graph
from manualbp.autograd.segment import Segment
from manualbp.autograd.taylor import Saved
from manualbp.autograd.torch_internals import nobody_records, wanted
from manualbp.maths import backprop, input_gradient
from manualbp.maths.backprop import Gradients, Step
from manualbp.maths.layers import By


class InputGradient(torch.autograd.Function):
    """``apply_input_gradient(segment, lines, *segment.parameters, x)``: u (N, O), du (N, O, K).

    lines: v (K, I), or (N, K, I) of each point's own; None for the axes. Where backward is
    recorded, all is computed again from the x and the parameters that carry their graphs.
    """

    @staticmethod
    def forward(ctx: Any, segment: Segment, lines: Tensor | None, *tensors: Any) -> Any:
        *parameters, x = tensors
        trained = ctx.needs_input_grad[2:-1]
        u, du, tape, deltas = input_gradient.forward(x, _steps(segment, segment.thetas, trained))
        if any(ctx.needs_input_grad):
            values = [None if t is None else t.detach() for t in parameters]
            graphs = [t if trains else None for t, trains in zip(parameters, trained, strict=True)]
            flat = [delta for each in deltas for delta in each]
            ctx.save_for_backward(lines, x, *values, *graphs, *tape, *flat)
        ctx.segment = segment
        ctx.present = (lines is not None, *segment.present, True)  # lines, parameters, x
        ctx.set_materialize_grads(False)
        first = torch.stack(du, 1)
        return u, first if lines is None else first @ lines.mT

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        segment: Segment = ctx.segment
        lines, x, *saved = ctx.saved_tensors
        _, *wants, wants_x = wanted(ctx, ctx.needs_input_grad[1:], ctx.present)
        if not (wants_x or any(wants)) or all(g is None for g in grad_outputs):
            return None, None, *[None] * (len(wants) + 1)
        count = len(wants)
        before = Saved(lines, x, saved[:count], saved[count : 2 * count], ctx.needs_input_grad[-1])
        kept = None if torch.is_grad_enabled() else saved[2 * count :]
        found = gradients(segment, before, kept, grad_outputs, wants)
        return None, None, *found.thetas, found.input if wants_x else None


apply_input_gradient = torch_internals.applied(InputGradient)


def gradients(
    segment: Segment, saved: Saved, kept: Sequence[Tensor | None] | None,
    grads: Sequence[Tensor | None], wants: Sequence[bool],
) -> Gradients:  # fmt: skip
    """The gradients from those of u and du; ``kept`` None: with all computed again, recorded."""
    lines, x, values, graphs, x_trained, _ = saved
    grad_u, grad_du = grads
    if grad_du is not None and lines is not None:
        grad_du = grad_du @ lines
    if kept is None:
        x = x if x_trained else x.detach()  # a constant at forward
        thetas = backprop.by_layer(segment.layers, list(map(with_graph, values, graphs)))
        steps = _steps(segment, thetas, wants)
        _, _, tape, deltas = input_gradient.forward(x, steps)
    else:
        steps = _steps(segment, segment.thetas, wants)
        count = sum(layer.keeps for layer in segment.layers)
        tape, flat = list(kept[:count]), kept[count:]
        deltas = [list(flat[i : i + len(steps)]) for i in range(0, len(flat), len(steps))]
    vs = [None] * len(deltas) if grad_du is None else list(grad_du.unbind(1))
    plain = kept is not None and all(g is None or nobody_records(g) for g in grads)
    by: By = "kernel" if plain else "recorded"
    return input_gradient.backward(grad_u, vs, steps, tape, deltas, by)


def _steps(segment: Segment, thetas: Any, wants: Any) -> list[Step]:
    """The chain with every gradient by h, which du is made of."""
    return backprop.steps(segment.layers, thetas, backprop.by_layer(segment.layers, wants))
