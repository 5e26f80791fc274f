"""Cross-entropy in its two steps: log p = log softmax(o), and C as a weighted sum of log p.

    log p_c = o_c - log sum_d e^(o_d)            C = -sum_c w_c q_c log p_c / n
    dC/dlog p_c = -w_c q_c / n
    dC/do_j = [p_j sum_c w_c q_c - w_j q_j] / n  by both; without weights that is (p - q) / n

o (N, classes) or (classes,)     y class indices (N,), or probabilities like o     w class weights
q the target distribution: y, or 1 at the class index y; with label smoothing e, (1 - e) q +
e / classes. n: the number of samples; for indices the sum of w_y over the samples that count.

Two steps, as autograd takes them, so that only log p is kept for backward. ``gradient`` and
``backward`` as in losses.py. Source: Nielsen ch. 3; nn.CrossEntropyLoss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.losses import REDUCTIONS, Loss, TargetError

aten = torch.ops.aten


class LogSoftmax:
    """log p_c = o_c - log sum_d e^(o_d) over the last dimension, p = softmax(o).

    From delta = dC/dlog p:  dC/do = delta - p sum_c delta_c.
    """

    def forward(self, o: Tensor) -> Tensor:
        return torch.log_softmax(o, -1)

    def formula(self, delta: Tensor, log_p: Tensor) -> Tensor:
        """dC/do, as it is written."""
        return delta - log_p.exp() * delta.sum(-1, keepdim=True)

    def backward(self, delta: Tensor, log_p: Tensor) -> Tensor:
        """dC/do, with the rounding of autograd."""
        return torch._log_softmax_backward_data(delta, log_p, -1, log_p.dtype)

    def double_backward(self, v: Tensor, delta: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of sum(v * dC/do): v - sum(v p) for delta, -v p sum(delta) for log p."""
        vp = v * log_p.exp()
        return v - vp.sum(-1, keepdim=True), -vp * delta.sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class CrossEntropy(Loss):
    """C = -sum_c w_c q_c log p_c / n,  dC/dlog p = -w q / n; o stands for log p here.

    A sample whose index is ``ignore_index`` has q = 0 and does not count.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    before = LogSoftmax()

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return () if self.weight is None else (self.weight,)

    def count(self, o: Tensor, y: Tensor) -> Tensor | int:
        return _samples(o) if y.is_floating_point() else self._count(y)

    def check(self, o: Tensor, y: Tensor) -> bool:
        classes = o.shape[-1] if o.dim() in (1, 2) else 0  # more dimensions: images
        if classes == 0 or not o.is_floating_point() or not 0 <= self.label_smoothing <= 1:
            return False
        if self.weight is not None and self.weight.shape != (classes,):
            return False
        if y.dtype is torch.int64 and y.shape == o.shape[:-1]:
            return True
        if y.is_floating_point():
            return self._check_probabilities(o, y)
        if y.dtype is torch.uint8 and self.weight is not None and self.label_smoothing > 0:
            return False
        if y.dtype not in (torch.int64, torch.uint8) or y.shape != o.shape[:-1]:
            if o.numel() == 0:
                return False
            raise TargetError(
                f"target of CrossEntropyLoss must be class indices {tuple(o.shape[:-1])} int64 in "
                f"0...{classes - 1}, got {tuple(y.shape)} {y.dtype}; use target.long() and one "
                "index per sample, or BCEWithLogitsLoss with floating targets for many labels"
            )
        return True

    def _check_probabilities(self, o: Tensor, y: Tensor) -> bool:
        if y.shape != o.shape:
            if o.numel() == 0:
                return False
            raise TargetError(
                f"target of CrossEntropyLoss must be class indices {tuple(o.shape[:-1])} int64 or "
                f"class probabilities {tuple(o.shape)}, got {tuple(y.shape)} {y.dtype}; use "
                "target.long() for indices, or MSELoss for regression"
            )
        return self.ignore_index < 0 and y.dtype is o.dtype

    def forward(self, log_p: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if y.is_floating_point():
            errors = self._weighted(log_p * self._smoothed(y))
            if self.reduction == "none":
                return -errors.sum(-1), ()
            return -errors.sum() / (_samples(log_p) if self.reduction == "mean" else 1), ()
        nll, total_weight = aten.nll_loss_forward.default(
            log_p, y, self.weight, REDUCTIONS[self.reduction], self.ignore_index
        )
        if self.label_smoothing == 0:
            return nll, (total_weight,)
        smooth = -self._weighted(log_p).sum(-1).masked_fill(y == self.ignore_index, 0)
        if self.reduction != "none":
            smooth = smooth.sum() / (self._count(y) if self.reduction == "mean" else 1)
        e = self.label_smoothing
        return (1 - e) * nll + smooth * (e / log_p.shape[-1]), (total_weight,)

    def gradient(self, log_p: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point():
            q, count = self._smoothed(y), torch.tensor(_samples(log_p), device="cpu")
        else:
            y = y.long()  # as a byte, ignore_index -100 would be class 156
            kept = y != self.ignore_index
            one_hot = F.one_hot(y.where(kept, 0), log_p.shape[-1]).to(log_p.dtype)
            q, count = self._smoothed(one_hot) * kept.unsqueeze(-1), self._count(y)
        wq = self._weighted(q)
        if self.reduction != "mean":
            return -wq
        return torch.where(wq == 0, 0.0, -wq / count)  # no sample counts: 0, not 0 / 0

    def spread(self, grad: Tensor, o: Tensor) -> Tensor:
        return grad.unsqueeze(-1) if self.reduction == "none" else grad

    def backward(self, grad: Tensor, log_p: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        if y.is_floating_point():
            if self.reduction == "mean":
                grad = grad / _samples(log_p)
            grad = self._weighted(self.spread(-grad, log_p).expand(log_p.shape))
            return grad * self._smoothed(y)
        if self.label_smoothing == 0:
            return self._nll_backward(grad, log_p, y, *kept)
        smooth = grad * (self.label_smoothing / log_p.shape[-1])
        if self.reduction == "mean":
            smooth = smooth / self._count(y)
        smooth = -smooth.expand(y.shape).masked_fill(y == self.ignore_index, 0)
        smooth = self._weighted(smooth.unsqueeze(-1).expand(log_p.shape))
        return self._nll_backward(grad * (1 - self.label_smoothing), log_p, y, *kept) + smooth

    def _nll_backward(self, grad: Tensor, log_p: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
        """-w_y / n at the index y, 0 elsewhere, times grad; kept is n, or found again."""
        args = log_p, y, self.weight, REDUCTIONS[self.reduction], self.ignore_index
        n = kept[0] if kept else aten.nll_loss_forward.default(*args)[1]
        return aten.nll_loss_backward.default(grad, *args, n)

    def _count(self, y: Tensor) -> Tensor:
        """n for class indices."""
        kept = y != self.ignore_index
        if self.weight is None:
            return kept.sum()
        if y.is_cpu:  # elsewhere the host would have to wait for how many are kept
            return self.weight[y.long()[kept]].sum()
        return self.weight[y.long().where(kept, 0)].where(kept, 0).sum()

    def _smoothed(self, q: Tensor) -> Tensor:
        """(1 - e) q + e / classes."""
        e = self.label_smoothing
        return q * (1 - e) + e / q.shape[-1] if e > 0 else q

    def _weighted(self, values: Tensor) -> Tensor:
        return values if self.weight is None else values * self.weight


def _samples(log_p: Tensor) -> int:
    return log_p.shape[:-1].numel()
