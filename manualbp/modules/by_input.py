"""Derivatives of a chain by its input, by hand where that can be done: which way runs."""

from __future__ import annotations

import torch
from torch import Tensor

from manualbp import fast
from manualbp.autograd.input_gradient import apply_input_gradient
from manualbp.autograd.stages import Stages
from manualbp.autograd.taylor import apply_derivatives, axes
from manualbp.maths.order import Order
from manualbp.modules import refusal


def run(
    stages: Stages, x: Tensor, order: Order, directions: Tensor | None
) -> tuple[Tensor, ...] | None:
    """u, du and the second derivatives; None where that needs nested autograd.

    Without second derivatives, and with fewer outputs than lines, du comes down from each output
    (maths/input_gradient.py). Else the derivatives go up with the value (maths/taylor.py). Both run
    in C++ where that takes them (fast/native/jets.py).
    """
    if refusal_of(stages, x, directions) is not None:
        return None
    if order.pairs:
        order.index(x.device)  # made where no transform is at work, for which it would be
    few = not order.pairs and stages.few_outputs(order.lines)
    found = fast.derivatives(stages, order, few, directions, x)
    if found is None and few:
        found = apply_input_gradient(stages, directions, *stages.parameters, x)
    elif found is None:
        lines = axes(x) if directions is None else directions
        found = apply_derivatives(stages, order, lines, *stages.parameters, x)
    return found


def refusal_of(stages: Stages, x: Tensor, directions: Tensor | None) -> str | None:
    """Why this call goes to nested autograd."""
    reason = refusal.of_call(x, graph=False)
    if reason is None and x.dtype not in (torch.float32, torch.float64):
        reason = f"the input is of dtype {x.dtype}"
    if reason is None and directions is not None and directions.requires_grad:
        reason = "the directions want a gradient"
    if reason is None:
        reason = refusal.of_tensors([x, *stages.tensors()])
    if reason is None and not stages.fit(x.shape[1]):
        reason = "the shapes do not fit"
    return reason
