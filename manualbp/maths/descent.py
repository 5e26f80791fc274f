"""The update: w <- w - epsilon dC/dw."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def descend(parameters: Iterable[Tensor], epsilon: float | Tensor) -> None:
    """w <- w - epsilon dC/dw, in place, for every w that has a gradient.

    Args:
        parameters: w, of any shape; w.grad is dC/dw.
        epsilon: the learning rate; a number, or a tensor with one element.
    """
    for w in parameters:
        if w.grad is None:
            continue
        if isinstance(epsilon, Tensor) and epsilon.requires_grad:  # torch.optim.SGD's own rounding
            w.addcmul_(w.grad, epsilon.squeeze(), value=-1)
        else:
            w.add_(w.grad, alpha=-float(epsilon))
