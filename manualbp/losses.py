"""Losses: C(o, y) and dC/do side by side.

o   output of the network, (N, O) or any shape       y   target
C   the cost: a scalar for reduction "mean" and "sum", one entry per error for "none"
n   number of errors averaged: all elements; for cross-entropy the samples, or their weights

``gradient(o, y)`` is the mathematics, dC/do as a tensor expression that teaching, the second order
and the tests run; for "none" it is each error's own derivative. ``backward(grad, o, y)`` is the
same times the cotangent ``grad``, rounded as autograd rounds it (a fused kernel, or autograd's
order of operations). Source: Nielsen ch. 2-3; torch.nn for parameters and reductions. The squared
error is the mean over N*O without the 1/2 of Nielsen's quadratic cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

REDUCTIONS = ("none", "mean", "sum")  # in the order of ATen's enum


@dataclass(frozen=True, eq=False)
class Loss(ABC):
    """C(o, y) with its gradient dC/do. ``reduction``: "mean", "sum" or "none"."""

    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(
                f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}"
            )

    @abstractmethod
    def check(self, o: Tensor, y: Tensor) -> None:
        """Raise ValueError unless o and y have the shapes and dtypes this loss is defined for."""

    @abstractmethod
    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        """C(o, y)."""

    @abstractmethod
    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """dC/do, the written formula."""

    @abstractmethod
    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        """grad * dC/do, with the rounding of autograd."""

    def spread(self, grad: Tensor, o: Tensor) -> Tensor:
        """The cotangent of C in a shape that multiplies dC/do."""
        return grad

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Weights that the gradient reads."""
        return ()

    @property
    def _code(self) -> int:
        return REDUCTIONS.index(self.reduction)

    def _averaged(self, gradient: Tensor) -> Tensor:
        """The 1/n of the mean, n all elements."""
        return gradient / gradient.numel() if self.reduction == "mean" else gradient


class _Elementwise(Loss):
    """One error per element: o and y have one shape and one floating dtype."""

    def check(self, o: Tensor, y: Tensor) -> None:
        name = type(self).__name__
        if not y.is_floating_point():
            raise ValueError(
                f"target of {name} must be {o.dtype}, got {y.dtype}; for class indices use "
                "CrossEntropyLoss, else target.to(output.dtype)"
            )
        if o.shape != y.shape:
            raise ValueError(
                f"target of {name} must be {tuple(o.shape)} like the output, got "
                f"{tuple(y.shape)}; reshape it, e.g. target.view_as(output), or for class indices "
                "use CrossEntropyLoss"
            )
        if o.dtype != y.dtype:
            raise ValueError(
                f"target of {name} must be {o.dtype} like the output, got {y.dtype}; "
                "use target.to(output.dtype)"
            )


@dataclass(frozen=True, eq=False)
class MSE(_Elementwise):
    """C = mean (o - y)^2,  dC/do = 2 (o - y) / n."""

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(o, y, reduction=self.reduction)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(2 * (o - y))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        return aten.mse_loss_backward(grad, o, y, self._code)


@dataclass(frozen=True, eq=False)
class L1(_Elementwise):
    """C = mean |o - y|,  dC/do = sign(o - y) / n, with sign(0) = 0."""

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return F.l1_loss(o, y, reduction=self.reduction)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(torch.sign(o - y))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(grad.expand(o.shape)) * torch.sgn(o - y)


@dataclass(frozen=True, eq=False)
class Huber(_Elementwise):
    """With e = o - y: C = mean of e^2 / 2 where |e| <= d, else d (|e| - d / 2).

    dC/do = clamp(e, -d, d) / n.
    """

    delta: float = 1.0

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return F.huber_loss(o, y, reduction=self.reduction, delta=self.delta)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged((o - y).clamp(-self.delta, self.delta))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        return aten.huber_loss_backward(grad, o, y, self._code, self.delta)


@dataclass(frozen=True, eq=False)
class SmoothL1(_Elementwise):
    """With e = o - y: C = mean of e^2 / (2 beta) where |e| < beta, else |e| - beta / 2.

    dC/do = clamp(e / beta, -1, 1) / n; beta = 0 is the L1 loss.
    """

    beta: float = 1.0

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return F.smooth_l1_loss(o, y, reduction=self.reduction, beta=self.beta)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        e = o - y
        return self._averaged((e / self.beta).clamp(-1, 1) if self.beta else torch.sign(e))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        if self.beta == 0:
            return L1(self.reduction).backward(grad, o, y)
        return aten.smooth_l1_loss_backward(grad, o, y, self._code, self.beta)


@dataclass(frozen=True, eq=False)
class BCEWithLogits(_Elementwise):
    """With s = sigmoid(o): C = -mean w [p y log s + (1 - y) log(1 - s)].

    dC/do = w [s (1 - y + p y) - p y] / n; without pos_weight p that is w (s - y) / n.

    w (``weight``) and p (``pos_weight``) broadcast to the shape of o.
    """

    weight: Tensor | None = None
    pos_weight: Tensor | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.pos_weight

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            o, y, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self._averaged(self._weighted(self._per_error(o, y)))

    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        # Autograd's own backward is this expression: the cotangent first, then w, then 1/n.
        return self._averaged(self._weighted(self._per_error(o, y) * grad))

    def _per_error(self, o: Tensor, y: Tensor) -> Tensor:
        if self.pos_weight is None:
            return torch.sigmoid(o) - y
        positive = self.pos_weight * y
        return (positive + 1 - y) * torch.sigmoid(o) - positive

    def _weighted(self, gradient: Tensor) -> Tensor:
        return gradient if self.weight is None else gradient * self.weight


@dataclass(frozen=True, eq=False)
class CrossEntropy(Loss):
    """With p = softmax(o): C = -mean over samples of sum_c w_c q_c log p_c.

    dC/do_j = [p_j sum_c w_c q_c - w_j q_j] / n; without weights that is (p - q) / n.

    q is the target distribution: the class probabilities y, or 1 at the class index y; with label
    smoothing e it is (1 - e) q + e / classes. n is the number of samples for probabilities; for
    indices it is the sum of w_y over the samples that are not ``ignore_index`` (their rows are 0).
    o is (N, classes) or (classes,); y is (N,) int64 or (N, classes) floating.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def tensors(self) -> tuple[Tensor | None, ...]:
        return (self.weight,)

    def check(self, o: Tensor, y: Tensor) -> None:
        classes = o.shape[-1] if o.dim() else 0
        indices, probabilities = tuple(o.shape[:-1]), tuple(o.shape)
        if y.is_floating_point():
            if y.shape != o.shape:
                raise ValueError(
                    f"target of CrossEntropyLoss must be class indices {indices} int64 or class "
                    f"probabilities {probabilities}, got {tuple(y.shape)} {y.dtype}; use "
                    "target.long() for indices, or MSELoss for regression"
                )
        elif y.dtype not in (torch.int64, torch.uint8) or tuple(y.shape) != indices:
            raise ValueError(
                f"target of CrossEntropyLoss must be class indices {indices} int64 in 0..."
                f"{classes - 1}, got {tuple(y.shape)} {y.dtype}; use target.long() and one index "
                "per sample, or BCEWithLogitsLoss with floating targets for many labels"
            )

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(
            o,
            y,
            self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        q, kept = self._distribution(o, y)
        wq = q if self.weight is None else self.weight * q
        p = torch.softmax(o, -1)
        gradient = p * wq.sum(-1, keepdim=True) - wq
        return gradient / self._count(o, y, kept) if self.reduction == "mean" else gradient

    def _distribution(self, o: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """q, and which samples count: None for all."""
        e, classes = self.label_smoothing, o.shape[-1]
        if y.is_floating_point():
            return y * (1 - e) + e / classes, None
        kept = y != self.ignore_index
        one_hot = F.one_hot(y.long().where(kept, 0), classes).to(o.dtype)
        return (one_hot * (1 - e) + e / classes) * kept.unsqueeze(-1), kept

    def _count(self, o: Tensor, y: Tensor, kept: Tensor | None) -> Tensor | float:
        """n of the mean."""
        if kept is None:
            return o.numel() / o.shape[-1]
        if self.weight is None:
            return kept.sum()
        return self.weight[y.long()[kept]].sum()

    def spread(self, grad: Tensor, o: Tensor) -> Tensor:
        return grad.unsqueeze(-1) if self.reduction == "none" else grad

    def backward(self, grad: Tensor, o: Tensor, y: Tensor) -> Tensor:
        log_p = torch.log_softmax(o, -1)
        if y.is_floating_point():
            grad_log_p = self._through_probabilities(grad, log_p, y)
        elif self.label_smoothing > 0:
            grad_log_p = self._through_smoothing(grad, log_p, y)
        else:
            grad_log_p = self._through_nll(grad, log_p, y)
        # = g - p sum_c g_c
        return aten._log_softmax_backward_data(grad_log_p, log_p, -1, o.dtype)

    def _through_nll(self, grad: Tensor, log_p: Tensor, y: Tensor) -> Tensor:
        """Of C = -mean w_y log p_y:  dC/dlog p = -w_y / n at the index y, 0 elsewhere."""
        args: tuple[Any, ...] = (log_p, y, self.weight, self._code, self.ignore_index)
        _, total_weight = aten.nll_loss_forward(*args)
        return aten.nll_loss_backward(grad, *args, total_weight)

    def _through_probabilities(self, grad: Tensor, log_p: Tensor, y: Tensor) -> Tensor:
        """Of C = -sum_c w_c q_c log p_c / n:  dC/dlog p = -w q / n, in autograd's order."""
        classes, e = log_p.shape[-1], self.label_smoothing
        q = y * (1 - e) + e / classes if e > 0 else y
        if self.reduction == "mean":
            grad = grad / (log_p.numel() // classes)
        grad = self.spread(-grad, log_p).expand(log_p.shape)
        return grad * q if self.weight is None else grad * self.weight * q

    def _through_smoothing(self, grad: Tensor, log_p: Tensor, y: Tensor) -> Tensor:
        """(1 - e) of the cost at y, and e / classes of -sum_c w_c log p_c, in autograd's order."""
        classes, e = log_p.shape[-1], self.label_smoothing
        ignored = y == self.ignore_index
        smooth = grad * (e / classes)
        if self.reduction == "mean":
            smooth = smooth / self._count(log_p, y, ~ignored)
        smooth = -smooth.expand(y.shape).masked_fill(ignored, 0).unsqueeze(-1).expand(log_p.shape)
        if self.weight is not None:
            smooth = smooth * self.weight
        return self._through_nll(grad * (1 - e), log_p, y) + smooth
