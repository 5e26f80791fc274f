"""Forward, loss and backward in one pass over tiles of rows: activations stay in the cache.

    for each tile of rows:   o = f_L(... f_1(x)),   C += C(o, y),   dC/do,   the delta recursion,
                             dC/dW += delta^T h,    dC/db += sum_n delta

Forward computes the gradients together with the loss. Backward only multiplies them by the
cotangent of C. Memory: the parameters' and O(rows of a tile * widths), for any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.segment import Segment
from manualbp.autograd.torch_internals import graph_is_kept, nobody_records
from manualbp.fast.tiles import Sums, slices, widths
from manualbp.maths import backprop
from manualbp.maths.backprop import Step
from manualbp.maths.layers import Theta
from manualbp.maths.losses import Loss


class OnePass(torch.autograd.Function):
    """``apply_one_pass(segment, loss, rows, y, *segment.parameters, x)``: C, by tiles of rows."""

    @staticmethod
    def forward(
        ctx: Any, segment: Segment, loss: Loss, rows: int, y: Tensor, *tensors: Any
    ) -> Tensor:
        steps = segment.task(ctx.needs_input_grad[4:]).steps
        cost, grad_input, thetas = cost_and_gradients(steps, loss, rows, tensors[-1], y)
        ctx.save_for_backward(*thetas, grad_input)
        return cost

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        first_order_only()
        found = ctx.saved_tensors
        # After ``loss.backward()`` there is nothing to multiply by. A GPU is not asked: that waits.
        is_one = grad.device.type == "cpu" and nobody_records(grad) and grad.item() == 1
        # Where backward may come again, the caller gets copies, since it may change them.
        if not is_one or graph_is_kept():
            found = [None if g is None else grad * g for g in found]
        return None, None, None, None, *found


apply_one_pass = torch_internals.applied(OnePass)


def first_order_only() -> None:
    """Raise where backward is recorded: its gradients were computed in forward."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "FusedLoss has no second derivatives: expected backward without create_graph=True; "
            "use loss(model(x), y) for them"
        )


def cost_and_gradients(
    steps: Sequence[Step], loss: Loss, rows: int, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """C, dC/dx and every dC/dtheta, None where not wanted."""
    sums, count = Sums(), errors(loss, steps, x, y)
    if len(x) <= rows:
        cost, grad_input = _tile(steps, sums, loss, x.new_ones(()), x, y)
        return cost, grad_input, sums.of(steps, x.dtype)
    summed, scale = replace(loss, reduction="sum"), x.new_ones(()) / count
    cost = x.new_zeros((), dtype=torch.float64)  # as the sums of vectors in tiles.py
    grad_input = torch.empty_like(x) if steps[0].needs.h else None
    for part in slices(len(x), rows):
        found, below = _tile(steps, sums, summed, scale, x[part], y[part])
        cost += found
        if grad_input is not None and below is not None:
            grad_input[part] = below
    return cost.to(x.dtype) / count, grad_input, sums.of(steps, x.dtype)


def _tile(
    steps: Sequence[Step], sums: Sums, loss: Loss, scale: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor | None]:
    """C and dC/dx of these rows. Adds the other gradients to ``sums``. All are times ``scale``."""
    o, tape = backprop.forward(x, steps)
    read = o if loss.before is None else loss.before.forward(o)
    cost, kept = loss.forward(read, y)
    if not any(step.needs for step in steps):
        return cost, None
    delta = loss.backward(scale, read, y, *kept)
    if loss.before is not None:
        delta = loss.before.backward(delta, read)
    found = backprop.backward(delta, steps, tape, over=True)
    sums.add(found.thetas)
    return cost, found.input


def errors(loss: Loss, steps: Sequence[Step], x: Tensor, y: Tensor) -> Tensor | int:
    """The number of errors whose mean the loss takes; 1 for a sum."""
    if loss.reduction != "mean":
        return 1
    return loss.count(outputs(x, [step.theta for step in steps]), y)


def outputs(x: Tensor, thetas: Sequence[Theta]) -> Tensor:
    """A tensor of the shape of o, without its memory."""
    return x.new_empty(()).expand(len(x), widths(thetas)[-1])
