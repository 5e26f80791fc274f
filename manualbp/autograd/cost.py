"""C(o, y) as a torch.autograd.Function with dC/do by hand.

Where autograd records the backward pass (``create_graph=True``), a gradient rule runs as a Function
of its own, ``Backward``. Its value is the kernel's, so that the bits stay autograd's, and it is
differentiated by written formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.maths.layers import total
from manualbp.maths.losses import Loss


class Cost(torch.autograd.Function):
    """``apply_cost(loss, o, y, *loss.weights)``: C, and log p where the loss is a function of it.

    log p is what backward reads. It leaves as an output so that it carries its graph (chain.py).
    """

    @staticmethod
    def forward(ctx: Any, loss: Loss, o: Tensor, y: Tensor, *weights: Any) -> Any:
        x = o if loss.before is None else loss.before.forward(o)
        cost, kept = loss.forward(x, y)
        ctx.save_for_backward(x, y, *kept, *weights)
        ctx.loss = loss
        ctx.set_materialize_grads(False)
        return cost if loss.before is None else (cost, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_x: Tensor | None = None) -> Any:
        loss = ctx.loss
        return (
            None,
            gradient(loss, grad, grad_x, *ctx.saved_tensors),
            None,
            *[None] * len(loss.weights),
        )


def gradient(
    loss: Loss, grad: Tensor | None, grad_x: Tensor | None, x: Tensor, y: Tensor, *kept: Tensor
) -> Tensor | None:
    """dC/do, from the cotangents of C and of log p; ``kept`` ends with the loss's weights."""
    end = len(kept) - len(loss.weights)
    kept, weights = kept[:end], kept[end:]
    recorded = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    delta = None
    if grad is not None and recorded:
        delta = recorded_gradient(loss, grad, x, y, *kept, watched=weights)
    elif grad is not None:
        delta = loss.backward(grad, x, y, *kept)
    if grad_x is not None:
        delta = total(delta, grad_x)
    if loss.before is not None and delta is not None:
        through = partial(recorded_gradient, loss.before) if recorded else loss.before.backward
        delta = through(delta, x)
    return delta


def backward_of(
    loss: Loss, grads: Sequence[Tensor | None], kept: Sequence[Tensor]
) -> list[Tensor | None]:
    """The same of a loss that ran elsewhere, and kept the same tensors."""
    return [gradient(loss, grads[0], grads[1] if len(grads) > 1 else None, *kept)]


apply_cost = torch_internals.applied(Cost)


class Rule(Protocol):
    """A gradient rule of one tensor, as losses are: its value, and the value's own gradients."""

    def backward(self, delta: Tensor, x: Tensor, /, *constants: Any) -> Tensor:
        """The gradient by x, from delta, the gradient of the result; rounded like autograd."""

    def formula(self, delta: Tensor, x: Tensor, /, *constants: Any) -> Tensor:
        """The same as it is written."""

    def double_backward(
        self, v: Tensor, delta: Tensor, x: Tensor, /, *constants: Any
    ) -> tuple[Tensor, Tensor]:
        """The gradients of sum(v * backward(delta, x)) by delta and by x."""


def recorded_gradient(
    rule: Rule, delta: Tensor, x: Tensor, *constants: Any, watched: Sequence[Tensor] = ()
) -> Tensor:
    """The rule's gradient while autograd records: one that can be differentiated again."""
    if torch_internals.transforms_active() or torch_internals.forward_mode():
        return rule.formula(delta, x, *constants)  # these look inside a program
    return Backward.apply(rule, watched, delta, x, *constants)  # type: ignore[no-untyped-call]


class Backward(torch.autograd.Function):
    """rule.backward(delta, x, *constants), to be differentiated once more by written formulas.

    ``watched`` are tensors that the rule holds itself. They are kept so that an edit is noticed.
    """

    @staticmethod
    def forward(
        ctx: Any, rule: Rule, watched: Sequence[Tensor], delta: Tensor, x: Tensor, *constants: Any
    ) -> Tensor:
        ctx.rule, ctx.constants = rule, len(constants)
        ctx.save_for_backward(delta, x, *constants, *watched)
        return rule.backward(delta, x, *constants)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        delta, x, *rest = ctx.saved_tensors
        constants = rest[: ctx.constants]
        gradients = ctx.rule.double_backward(grad_outputs[0], delta, x, *constants)
        return (None, None, *gradients, *[None] * ctx.constants)
