"""maths/input_gradient.py as a torch.autograd.Function: u and du of a chain with few outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.recomputed import with_graph
from manualbp.autograd.segment import Segment
from manualbp.autograd.taylor import Gradients, Saved
from manualbp.autograd.torch_internals import nobody_records, wanted
from manualbp.maths import backprop, input_gradient
from manualbp.maths.backprop import Step


class InputGradient(torch.autograd.Function):
    """``apply_input_gradient(segment, lines, *segment.parameters, x)``: u (N, O), du (N, O, K).

    lines: v (K, I), or (N, K, I) of each point's own; None for the axes. Where backward is
    recorded, all is computed again from the x and the parameters that carry their graphs.
    """

    @staticmethod
    def forward(ctx: Any, segment: Segment, lines: Tensor | None, *tensors: Any) -> Any:
        *parameters, x = tensors
        trained = ctx.needs_input_grad[2:-1]
        values = [None if t is None else t.detach() for t in parameters]
        steps = segment.task((*trained, True)).steps
        u, du, tape, deltas = input_gradient.forward(x, steps, False)
        if any(ctx.needs_input_grad):
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
        grad_x, grads = gradients(segment, before, kept, grad_outputs, wants, wants_x)
        return None, None, *grads, grad_x


apply_input_gradient = torch_internals.applied(InputGradient)


def gradients(
    segment: Segment, saved: Saved, kept: Sequence[Tensor] | None,
    grads: Sequence[Tensor | None], wants: Sequence[bool], wants_x: bool,
) -> Gradients:  # fmt: skip
    """The gradients from those of u and du; ``kept`` None: with all computed again, recorded."""
    lines, x, values, graphs, x_trained, _ = saved
    grad_u, grad_du = grads
    if grad_du is not None and lines is not None:
        grad_du = grad_du @ lines
    if kept is None:
        x = x if x_trained else x.detach()  # a constant at forward
        steps = _steps(segment, list(map(with_graph, values, graphs)), wants, wants_x)
        _, _, tape, deltas = input_gradient.forward(x, steps, True)
    else:
        steps = _steps(segment, values, wants, wants_x)
        parts = [kept[i : i + len(steps)] for i in range(0, len(kept), len(steps))]
        tape, deltas = list(parts[0]), list(map(list, parts[1:]))
    vs = [None] * len(deltas) if grad_du is None else list(grad_du.unbind(1))
    recorded = kept is None or not all(g is None or nobody_records(g) for g in grads)
    return input_gradient.backward(grad_u, vs, steps, tape, deltas, recorded)


def _steps(segment: Segment, values: Any, wants: Any, wants_x: bool) -> list[Step]:
    """The chain with these parameters."""
    thetas, by_layer = (backprop.by_layer(segment.layers, each) for each in (values, wants))
    return backprop.steps(segment.layers, thetas, by_layer, wants_x)
