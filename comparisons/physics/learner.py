"""One arm of a training: a network, its loss, and Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR


class Points(NamedTuple):
    """A batch: x (N, 2) inside; x (M, 2) where u is given; what is given there, (M, 1) or more."""

    inside: Tensor
    edge: Tensor
    given: Tensor


def by_glorot(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with tanh between them: weights by Glorot's rule, biases 0."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Learner:
    """Adam, whose rate falls as half a cosine to 0."""

    def __init__(
        self, model: nn.Module, loss: Callable[[Points], Tensor], lr: float, steps: int
    ) -> None:
        self.model, self.loss = model, loss
        self.optimizer = torch.optim.Adam(model.parameters(), lr)
        self.schedule = CosineAnnealingLR(self.optimizer, steps)

    def gradients(self, points: Points) -> list[Tensor]:
        """dC/dw of every parameter; nothing is changed."""
        return list(torch.autograd.grad(self.loss(points), list(self.model.parameters())))

    def train(self, points: Points) -> float:
        """A step; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.loss(points)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    def solution(self, x: Tensor) -> Tensor:
        """u at x, in float64."""
        with torch.no_grad():
            return self.model(x.float()).double()
