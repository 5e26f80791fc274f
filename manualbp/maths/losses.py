"""Losses: C(o, y) and dC/do side by side.

o   output of the network, (N, O) or any shape       y   target
C   the cost: a scalar for reduction "mean" and "sum", one entry per error for "none"
n   number of errors averaged: all elements; for cross-entropy the samples, or their weights

``gradient(o, y)`` is the mathematics: dC/do as a tensor expression. Teaching, the second order and
the tests run it; for "none" it is each error's own derivative. ``backward(grad, o, y)`` is the same
times the cotangent ``grad``, rounded as autograd rounds it (a fused kernel, or autograd's order of
operations). ``curvature(o, y)`` is the slope of ``gradient``. Cross-entropy is in
cross_entropy.py. Source: Nielsen ch. 2-3; torch.nn for parameters and reductions. The squared error
is the mean over N*O without the 1/2 of Nielsen's quadratic cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


class TargetError(ValueError, RuntimeError):
    """A loss is not defined for this target. PyTorch raises now the one of both, now the other."""


REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # with the numbers that ATen has for them


@dataclass(frozen=True, eq=False)
class Loss(ABC):
    """C(o, y) with its gradient dC/do. ``reduction``: "mean", "sum" or "none"."""

    reduction: str = "mean"
    before: ClassVar[Any] = None  # what is applied to o first: log softmax, for cross-entropy

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            names = ", ".join(REDUCTIONS)
            raise ValueError(f"reduction must be one of {names}, got {self.reduction!r}")

    @abstractmethod
    def check(self, o: Tensor, y: Tensor) -> bool:
        """Whether the formulas cover these o and y; where they do not, torch.nn's own code runs.

        Raises:
            TargetError: shapes or dtypes for which this loss is not defined.
        """

    @abstractmethod
    def forward(self, o: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """C(o, y), and what ``backward`` reads beside o and y."""

    @abstractmethod
    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """dC/do, the written formula."""

    def curvature(self, o: Tensor, y: Tensor) -> Tensor | None:
        """d2C/do_j^2, for losses whose errors do not mix outputs; None where it is 0 everywhere."""
        return None

    @abstractmethod
    def backward(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        """grad * dC/do, with the rounding of autograd."""

    def formula(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        """grad * dC/do, as it is written."""
        return self.spread(grad, o) * self.gradient(o, y)

    def double_backward(
        self, v: Tensor, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients of sum(v * grad * dC/do): v dC/do for grad, and v grad d2C/do^2 for o."""
        spread, curvature = self.spread(grad, o), self.curvature(o, y)
        for_grad = (v * self.gradient(o, y)).sum_to_size(spread.shape).reshape(grad.shape)
        for_o = torch.zeros_like(o) if curvature is None else v * spread * curvature
        return for_grad, for_o

    def spread(self, grad: Tensor, o: Tensor) -> Tensor:
        """The cotangent of C in a shape that multiplies dC/do."""
        return grad

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The weights that it holds and the gradient reads."""
        return ()

    def count(self, o: Tensor, y: Tensor) -> Tensor | int:
        """n, over how much the mean is taken: everything in o."""
        return o.numel()

    def _averaged(self, gradient: Tensor) -> Tensor:
        """The 1/n of the mean, n all elements."""
        return gradient / gradient.numel() if self.reduction == "mean" else gradient


class _Elementwise(Loss):
    """One error per element: o and y have one shape and one floating dtype."""

    def check(self, o: Tensor, y: Tensor) -> bool:
        if o.shape == y.shape and o.dtype is y.dtype:
            return True
        if not o.is_floating_point() or y.is_complex():
            return False
        if not y.is_floating_point():
            remedy = "for class indices use CrossEntropyLoss, else target.to(output.dtype)"
            wrong = f"{o.dtype}, got {y.dtype}; {remedy}"
        elif o.shape != y.shape:
            wrong = (
                f"{tuple(o.shape)} like the output, got {tuple(y.shape)}; reshape it, e.g. "
                "target.view_as(output), or for class indices use CrossEntropyLoss"
            )
        else:
            wrong = f"{o.dtype} like the output, got {y.dtype}; use target.to(output.dtype)"
        raise TargetError(f"target of {type(self).__name__} must be {wrong}")


@dataclass(frozen=True, eq=False)
class MSE(_Elementwise):
    """C = mean (o - y)^2,  dC/do = 2 (o - y) / n,  d2C/do^2 = 2 / n."""

    def forward(self, o: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return F.mse_loss(o, y, reduction=self.reduction), ()

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(2 * (o - y))

    def curvature(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(torch.full_like(o, 2.0))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        return aten.mse_loss_backward.default(grad, o, y, REDUCTIONS[self.reduction])


@dataclass(frozen=True, eq=False)
class L1(_Elementwise):
    """C = mean |o - y|,  dC/do = sign(o - y) / n, with sign(0) = 0."""

    def forward(self, o: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return F.l1_loss(o, y, reduction=self.reduction), ()

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(torch.sign(o - y))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        return self._averaged(grad.expand(o.shape)) * torch.sgn(o - y)


@dataclass(frozen=True, eq=False)
class Huber(_Elementwise):
    """With e = o - y: C = mean of e^2 / 2 where |e| <= d, else d (|e| - d / 2).

    dC/do = clamp(e, -d, d) / n,  d2C/do^2 = 1 / n where |e| < d.
    """

    delta: float = 1.0

    def forward(self, o: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return F.huber_loss(o, y, reduction=self.reduction, delta=self.delta), ()

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        e = o - y
        return self._averaged(torch.where(e.abs() < self.delta, e, self.delta * torch.sign(e)))

    def curvature(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(((o - y).abs() < self.delta).to(o.dtype))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        return aten.huber_loss_backward.default(grad, o, y, REDUCTIONS[self.reduction], self.delta)


@dataclass(frozen=True, eq=False)
class SmoothL1(_Elementwise):
    """With e = o - y: C = mean of e^2 / (2 beta) where |e| < beta, else |e| - beta / 2.

    dC/do = clamp(e / beta, -1, 1) / n,  d2C/do^2 = 1 / (n beta) where |e| < beta.
    beta = 0 is the L1 loss.
    """

    beta: float = 1.0

    def forward(self, o: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return F.smooth_l1_loss(o, y, reduction=self.reduction, beta=self.beta), ()

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        if self.beta == 0:
            return L1(self.reduction).gradient(o, y)
        e = o - y
        return self._averaged(torch.where(e.abs() < self.beta, e / self.beta, torch.sign(e)))

    def curvature(self, o: Tensor, y: Tensor) -> Tensor | None:
        if self.beta == 0:
            return None
        return self._averaged(((o - y).abs() < self.beta).to(o.dtype) / self.beta)

    def backward(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        if self.beta == 0:
            return L1(self.reduction).backward(grad, o, y)
        return aten.smooth_l1_loss_backward.default(
            grad, o, y, REDUCTIONS[self.reduction], self.beta
        )


@dataclass(frozen=True, eq=False)
class BCEWithLogits(_Elementwise):
    """With s = sigmoid(o): C = -mean w [p y log s + (1 - y) log(1 - s)].

    dC/do = w [s (1 - y + p y) - p y] / n; without pos_weight p that is w (s - y) / n.
    d2C/do^2 = w (1 - y + p y) s (1 - s) / n.

    w (``weight``) and p (``pos_weight``) broadcast to the shape of o.
    """

    weight: Tensor | None = None
    pos_weight: Tensor | None = None

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(w for w in (self.weight, self.pos_weight) if w is not None)

    def forward(self, o: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        options = {"pos_weight": self.pos_weight, "reduction": self.reduction}
        return F.binary_cross_entropy_with_logits(o, y, self.weight, **options), ()  # type: ignore[arg-type]

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(self._weighted(self._per_error(o, y)))

    def curvature(self, o: Tensor, y: Tensor) -> Tensor:
        s = torch.sigmoid(o)
        positive = 1 if self.pos_weight is None else (self.pos_weight - 1) * y + 1
        return self._averaged(self._weighted(positive * s * (1 - s)))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        # Autograd's own backward is this expression: the cotangent first, then w, then 1/n.
        return self._averaged(self._weighted(self._per_error(o, y) * grad))

    def _per_error(self, o: Tensor, y: Tensor) -> Tensor:
        if self.pos_weight is None:
            return torch.sigmoid(o) - y
        positive = self.pos_weight * y
        return (positive + 1 - y) * torch.sigmoid(o) - positive

    def _weighted(self, gradient: Tensor) -> Tensor:
        return gradient if self.weight is None else gradient * self.weight
