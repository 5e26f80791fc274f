"""CrossEntropyLoss: as the losses of losses.py, over the two steps of maths/cross_entropy.py."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: F401  # TorchScript finds torch.nn's names here
from torch import Tensor, nn

from manualbp.autograd.torch_internals import scripted_as
from manualbp.modules.cost import cost
from manualbp.modules.plan import without_plan


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """``C = -mean log p_y``, ``p = softmax(o)``,  ``dC/do = (p - q) / n``: by hand.

    q is y, or 1 at the class of index y. n is the number of samples; with indices the sum of w_y
    over those that count. With class weights w: ``C = -sum_c w_c q_c log p_c / n``.

    Shapes: o (``input``) (N, classes) or (classes,) of a floating dtype; y (``target``) class
    indices (N,) or () in int64, or probabilities of o's shape and dtype. Images: as torch.nn.

    Args:
        weight: w (classes,), 1 if None.
        size_average, reduce: torch.nn's older names of ``reduction``, deprecated there.
        ignore_index: samples of this index do not count.
        reduction: "mean", "sum" (no 1 / n), or "none": an error for each sample.
        label_smoothing: e in 0...1: q becomes (1 - e) q + e / classes.

    Raises:
        ValueError: in a call: y has a shape or dtype that is neither; an unknown reduction.
        IndexError: in a call: an index is not in 0...classes - 1, and not ``ignore_index``.
        RuntimeError: in a call: weights of another shape; label_smoothing not in 0...1.

    Example:
        >>> import torch
        >>> import manualbp
        >>> o = torch.tensor([[0.0, 0.0]], requires_grad=True)
        >>> loss = manualbp.CrossEntropyLoss()(o, torch.tensor([0]))
        >>> loss.backward()
        >>> round(loss.item(), 4), o.grad.tolist()
        (0.6931, [[-0.5, 0.5]])
    """

    __getstate__ = without_plan

    @scripted_as(nn.CrossEntropyLoss.forward)
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C(input, target); target: class indices (N,) int64, or probabilities (N, classes)."""
        return cost(self, nn.CrossEntropyLoss, input, target)
