"""A gradient rule of one tensor as a Function of its own, for a backward pass that is recorded.

The losses are such rules: under ``create_graph=True`` their gradient gives the kernel's value, so
that the bits stay autograd's, and is itself differentiated by written formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Rule(Protocol):
    """A gradient rule, as losses are: its value, and the value's own gradients."""

    def backward(self, delta: Tensor, x: Tensor, /, *constants: Any) -> Tensor:
        """The gradient by x, from delta, the gradient of the result; rounded like autograd."""

    def formula(self, delta: Tensor, x: Tensor, /, *constants: Any) -> Tensor:
        """The same as it is written."""

    def double_backward(
        self, v: Tensor, delta: Tensor, x: Tensor, /, *constants: Any
    ) -> tuple[Tensor, Tensor]:
        """The gradients of sum(v * backward(delta, x)) by delta and by x."""


class Backward(torch.autograd.Function):
    """rule.backward(delta, x, *constants), to be differentiated once more by written formulas.

    ``watched`` are tensors the rule holds itself; they are kept here so that an edit is noticed.
    """

    @staticmethod
    def forward(
        ctx: Any, rule: Rule, watched: Sequence[Tensor | None], delta: Tensor, x: Tensor, *rest: Any
    ) -> Tensor:
        ctx.rule, ctx.rest = rule, len(rest)
        ctx.save_for_backward(delta, x, *rest, *watched)
        return rule.backward(delta, x, *rest)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        delta, x, *rest = ctx.saved_tensors
        rest = rest[: ctx.rest]
        gradients = ctx.rule.double_backward(grad_outputs[0], delta, x, *rest)
        return (None, None, *gradients, *[None] * ctx.rest)


def differentiable(
    rule: Rule, delta: Tensor, x: Tensor, *rest: Any, watched: Sequence[Tensor | None] = ()
) -> Tensor:
    """rule.backward(delta, x, *rest) in a graph that is being recorded."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return rule.formula(delta, x, *rest)  # these look inside a program
    return Backward.apply(rule, watched, delta, x, *rest)  # type: ignore[no-untyped-call]
