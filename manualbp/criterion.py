"""Drop-in losses: torch.nn's signatures over one Function with the gradients of losses.py.

    loss = manualbp.CrossEntropyLoss()(model(x), y);  loss.backward()

Value and gradient are bit-identical with torch.nn's on CPU. Where the Function cannot serve
(torch.compile, torch.func, autocast, a target that wants a gradient, cross-entropy over images)
torch.nn's own forward runs. One deliberate difference: a target of another shape or dtype is an
error here, also where torch.nn warns and broadcasts, because the broadcast loss is the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manualbp import losses
from manualbp.eligible import alike, unobserved


class Cost(torch.autograd.Function):
    """C(o, y), with dC/do by hand: ``Cost.apply(loss, o, y, *loss.tensors())``."""

    @staticmethod
    def forward(ctx: Any, loss: losses.Loss, o: Tensor, y: Tensor, *weights: Any) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(o, y, *weights)
        ctx.set_materialize_grads(False)
        return loss.forward(o, y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        o, y, *weights = ctx.saved_tensors
        unused = [None] * (1 + len(weights))
        if grad is None:
            return (None, None, *unused)
        if torch.is_grad_enabled():  # autograd records: the written formula, of any order
            grad_o = ctx.loss.spread(grad, o) * ctx.loss.gradient(o, y)
        else:
            grad_o = ctx.loss.backward(grad, o, y)
        return (None, grad_o, *unused)


def _cost(loss: losses.Loss, own_forward: Callable[[Any, Any], Any], o: Any, y: Any) -> Any:
    """C by hand where a graph is wanted and nothing observes; else torch.nn's own forward."""
    if not (isinstance(o, Tensor) and isinstance(y, Tensor)):
        raise TypeError(
            f"input and target must be tensors, got {type(o).__name__} and {type(y).__name__}; "
            "use torch.as_tensor"
        )
    images = isinstance(loss, losses.CrossEntropy) and o.dim() > 2
    if not images:
        loss.check(o, y)
    weights = [w for w in loss.tensors() if w is not None]
    floating = [o, *weights, *([y] if y.is_floating_point() else [])]
    constants = not any(t.requires_grad for t in (y, *weights))
    try:
        if o.requires_grad and constants and not images and unobserved(o) and alike(floating):
            return Cost.apply(loss, o, y, *loss.tensors())  # type: ignore[no-untyped-call]
        return own_forward(o, y)
    except IndexError as error:  # from the CPU kernel; a GPU can only report it later
        raise IndexError(
            f"class indices must be in 0...{o.shape[1 if o.dim() > 1 else 0] - 1}, one per output "
            f"of the network, got: {error}; make the last layer wider, or mark samples to skip "
            "with ignore_index"
        ) from None


class MSELoss(nn.MSELoss):
    """C = mean (o - y)^2,  dC/do = 2 (o - y) / n: nn.MSELoss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return _cost(losses.MSE(self.reduction), super().forward, input, target)


class L1Loss(nn.L1Loss):
    """C = mean |o - y|,  dC/do = sign(o - y) / n: nn.L1Loss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return _cost(losses.L1(self.reduction), super().forward, input, target)


class HuberLoss(nn.HuberLoss):
    """C = mean of e^2 / 2 if |e| <= delta, else delta (|e| - delta / 2): nn.HuberLoss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return _cost(losses.Huber(self.reduction, self.delta), super().forward, input, target)


class SmoothL1Loss(nn.SmoothL1Loss):
    """C = mean of e^2 / (2 beta) if |e| < beta, else |e| - beta / 2: nn.SmoothL1Loss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return _cost(losses.SmoothL1(self.reduction, self.beta), super().forward, input, target)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """C = -mean w [p y log s + (1 - y) log(1 - s)], s = sigmoid(o), by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        loss = losses.BCEWithLogits(self.reduction, self.weight, self.pos_weight)
        return _cost(loss, super().forward, input, target)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """C = -mean log p_y, p = softmax(o),  dC/do = (p - q) / n: nn.CrossEntropyLoss by hand."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); target: class indices (N,) int64, or probabilities (N, classes)."""
        loss = losses.CrossEntropy(
            self.reduction, self.weight, self.ignore_index, self.label_smoothing
        )
        return _cost(loss, super().forward, input, target)
