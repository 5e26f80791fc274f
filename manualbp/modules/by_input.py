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

SMALL = 2**17  # numbers of the widest layer, of u and each second derivative, at all points


def run(
    stages: Stages, x: Tensor, order: Order, directions: Tensor | None
) -> tuple[Tensor, ...] | None:
    """u, du and the second derivatives; None where that needs nested autograd.

    Without second derivatives, and with no more outputs than lines, du comes down from each output
    (maths/input_gradient.py). Else the derivatives go up with the value (maths/taylor.py). Both run
    in C++ where that takes them (fast/native/jets.py), and else in Python, unless
    ``graph_is_faster``.
    """
    if refusal_of(stages, x, directions) is not None:
        return None
    if order.pairs:
        order.index(x.device)  # made where no transform is at work, for which it would be
    first = not order.pairs
    few = first and stages.few_outputs(order.lines - 1)  # with as many, C++ takes less time upwards
    found = fast.derivatives(stages, order, few, directions, x)
    if found is not None:
        return found
    if graph_is_faster(stages, x, order):
        return None
    if first and stages.few_outputs(order.lines):
        return apply_input_gradient(stages, directions, *stages.parameters, x)
    lines = axes(x) if directions is None else directions
    return apply_derivatives(stages, order, lines, *stages.parameters, x)


def graph_is_faster(stages: Stages, x: Tensor, order: Order) -> bool:
    """Whether nested autograd takes less time than Python does by hand, as measured on CPUs.

    By hand there is one pass for all outputs and lines, where autograd has one for each of them.
    But autograd starts its kernels from C++. So it wins where its passes are few: on small tensors,
    and for second derivatives of one output along a few pairs of lines, which are picked one by one
    by hand.
    """
    if stages.by_hand or not x.is_cpu:  # through modules of ours autograd takes longer
        return False
    if not x.requires_grad and not any(t.requires_grad for t in stages.tensors()):
        return False  # it would make a graph for nobody
    outputs, numbers = stages.widths[-1], len(x) * max(stages.widths) * (1 + len(order.pairs))
    if not order.pairs:
        return numbers < SMALL and outputs <= max(order.lines, 2)
    if not order.of_all_lines:
        return outputs == 1
    return numbers < SMALL and outputs == order.lines == 1


def has_native() -> bool:
    """Whether there is a library in C++, which may take a call."""
    return fast.native.library() is not None


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
