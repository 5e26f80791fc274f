"""Drop-in losses: torch.nn's signatures over a Function with the gradients of maths/losses.py.

    loss = manualbp.CrossEntropyLoss()(model(x), y);  loss.backward()

Value and gradient are bit-identical with torch.nn's on CPU. cost.py says when torch.nn's own
forward runs. One deliberate difference: a target of another shape or dtype is an error here.
torch.nn warns and broadcasts some of those, and the broadcast loss is the wrong one. The error is
a ValueError and a RuntimeError, as torch.nn raises now the one, now the other.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: F401  # TorchScript finds torch.nn's names here
from torch import Tensor, nn

from manualbp.autograd.torch_internals import scripted_as
from manualbp.maths import losses
from manualbp.modules.cost import LOSSES, cost
from manualbp.modules.cross_entropy import CrossEntropyLoss
from manualbp.modules.plan import without_plan


class MSELoss(nn.MSELoss):
    """``C = mean (o - y)^2``,  ``dC/do = 2 (o - y) / n``: nn.MSELoss by hand.

    Shapes: o (``input``) and y (``target``) alike, any shape of n elements, one floating dtype.

    Args:
        size_average, reduce: torch.nn's older names of ``reduction``, deprecated there.
        reduction: "mean", "sum" (no 1 / n), or "none": an error for each element.

    Raises:
        ValueError: in a call: y has another shape or dtype than o; an unknown reduction.

    Example:
        >>> import torch
        >>> import manualbp
        >>> o = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = manualbp.MSELoss()(o, torch.tensor([0.0, 4.0]))
        >>> loss.backward()
        >>> loss.item(), o.grad.tolist()
        (2.5, [1.0, -2.0])
    """

    __getstate__ = without_plan

    @scripted_as(nn.MSELoss.forward)
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return cost(self, nn.MSELoss, input, target)


class L1Loss(nn.L1Loss):
    """``C = mean |o - y|``,  ``dC/do = sign(o - y) / n``, sign(0) = 0: nn.L1Loss by hand.

    Shapes: o (``input``) and y (``target``) alike, any shape of n elements, one floating dtype.

    Args:
        size_average, reduce: torch.nn's older names of ``reduction``, deprecated there.
        reduction: "mean", "sum" (no 1 / n), or "none": an error for each element.

    Raises:
        ValueError: in a call: y has another shape or dtype than o; an unknown reduction.

    Example:
        >>> import torch
        >>> import manualbp
        >>> o = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> loss = manualbp.L1Loss()(o, torch.tensor([0.0, 6.0]))
        >>> loss.backward()
        >>> loss.item(), o.grad.tolist()
        (1.5, [0.5, -0.5])
    """

    __getstate__ = without_plan

    @scripted_as(nn.L1Loss.forward)
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return cost(self, nn.L1Loss, input, target)


class HuberLoss(nn.HuberLoss):
    """``C = mean of e^2 / 2 if |e| <= delta, else delta (|e| - delta / 2)``, ``e = o - y``.

    ``dC/do = clamp(e, -delta, delta) / n``: nn.HuberLoss by hand.

    Shapes: o (``input``) and y (``target``) alike, any shape of n elements, one floating dtype.

    Args:
        reduction: "mean", "sum" (no 1 / n), or "none": an error for each element.
        delta: where the square ends and the line begins; > 0.

    Raises:
        ValueError: in a call: y has another shape or dtype than o; an unknown reduction.
        RuntimeError: in a call: delta <= 0.

    Example:
        >>> import torch
        >>> import manualbp
        >>> o = torch.tensor([0.5, -3.0], requires_grad=True)
        >>> loss = manualbp.HuberLoss(delta=1.0)(o, torch.tensor([0.0, 0.0]))
        >>> loss.backward()
        >>> loss.item(), o.grad.tolist()
        (1.3125, [0.25, -0.5])
    """

    __getstate__ = without_plan

    @scripted_as(nn.HuberLoss.forward)
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return cost(self, nn.HuberLoss, input, target)


class SmoothL1Loss(nn.SmoothL1Loss):
    """``C = mean of e^2 / (2 beta) if |e| < beta, else |e| - beta / 2``, ``e = o - y``.

    ``dC/do = clamp(e / beta, -1, 1) / n``: nn.SmoothL1Loss by hand.

    Shapes: o (``input``) and y (``target``) alike, any shape of n elements, one floating dtype.

    Args:
        size_average, reduce: torch.nn's older names of ``reduction``, deprecated there.
        reduction: "mean", "sum" (no 1 / n), or "none": an error for each element.
        beta: where the square ends and the line begins; >= 0, and 0 is the L1 loss.

    Raises:
        ValueError: in a call: y has another shape or dtype than o; an unknown reduction.
        RuntimeError: in a call: beta < 0.

    Example:
        >>> import torch
        >>> import manualbp
        >>> o = torch.tensor([0.25, -3.0], requires_grad=True)
        >>> loss = manualbp.SmoothL1Loss(beta=0.5)(o, torch.tensor([0.0, 0.0]))
        >>> loss.backward()
        >>> loss.item(), o.grad.tolist()
        (1.40625, [0.25, -0.5])
    """

    __getstate__ = without_plan

    @scripted_as(nn.SmoothL1Loss.forward)
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return cost(self, nn.SmoothL1Loss, input, target)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """``C = -mean w [p y log s + (1 - y) log(1 - s)]``, ``s = sigmoid(o)``.

    ``dC/do = w [s (1 - y + p y) - p y] / n``, without p ``w (s - y) / n``: nn.BCEWithLogitsLoss by
    hand. y are labels or probabilities from 0 to 1.

    Shapes: o (``input``) and y (``target``) alike, any shape of n elements, one floating dtype.

    Args:
        weight: w, 1 if None; of a shape that broadcasts to o's.
        size_average, reduce: torch.nn's older names of ``reduction``, deprecated there.
        reduction: "mean", "sum" (no 1 / n), or "none": an error for each element.
        pos_weight: p, 1 if None; the same, the weight of the positive labels.

    Raises:
        ValueError: in a call: y has another shape or dtype than o; an unknown reduction.
        RuntimeError: in a call: weights that do not broadcast.

    Example:
        >>> import torch
        >>> import manualbp
        >>> o = torch.tensor([0.0, 0.0], requires_grad=True)
        >>> loss = manualbp.BCEWithLogitsLoss()(o, torch.tensor([1.0, 0.0]))
        >>> loss.backward()
        >>> round(loss.item(), 4), o.grad.tolist()
        (0.6931, [-0.25, 0.25])
    """

    __getstate__ = without_plan

    @scripted_as(nn.BCEWithLogitsLoss.forward)
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); both of one shape and dtype."""
        return cost(self, nn.BCEWithLogitsLoss, input, target)


OURS: dict[type[nn.Module], type[nn.Module]] = {
    kind: kind.__bases__[0]
    for kind in (MSELoss, L1Loss, HuberLoss, SmoothL1Loss, BCEWithLogitsLoss, CrossEntropyLoss)
}


def loss_of(module: nn.Module) -> losses.Loss | None:
    """The loss that a module of torch.nn or of ours computes; None for any other."""
    kind: Any = type(module)
    build = LOSSES.get(OURS.get(kind, kind))
    return build(module) if build else None
