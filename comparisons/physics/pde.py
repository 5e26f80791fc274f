"""An equation with its conditions and its solution, and the loss of a network that is to solve it.

    C = mean_n residual(x_n)^2 + weight * mean_m (u(x_m) - given(x_m))^2

x_n lies inside, x_m where u is given. Source: Raissi, Perdikaris, Karniadakis, *Physics-informed
neural networks*, 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from comparisons.physics.learner import Learner, Points, by_glorot
from comparisons.physics.ways import AUTOGRAD, MANUAL, Way, Ways

GRID = 101  # points along an axis, where a solution is compared with the exact one


@dataclass(frozen=True)
class PDE:
    """An equation of u(x) on a rectangle, x in R^2."""

    name: str
    equation: str  # with its conditions, in one line
    solution: str  # in words, and where it is from
    axes: tuple[str, str]
    low: tuple[float, float]
    high: tuple[float, float]
    edges: tuple[tuple[int, float], ...]  # axis and coordinate of the sides where u is given
    ways: Ways
    residual: Callable[..., Tensor]  # of x and what the ways return, (N, 1)
    exact: Callable[[Tensor], Tensor]  # u at x (N, 2), as (N, 1)
    hidden: tuple[int, ...] = (32, 32, 32)
    inside: int = 256
    edge: int = 64
    weight: float = 100.0
    lr: float = 1e-2
    steps: int = 3000
    steps_per_call: ClassVar[int] = 1

    def learners(self, seed: int, steps: int) -> dict[str, Learner]:
        """Both arms by name, with the same weights."""
        torch.manual_seed(seed)
        model = by_glorot((2, *self.hidden, 1))
        twins = {AUTOGRAD: model, MANUAL: copy.deepcopy(model)}
        return {
            arm: Learner(twin, partial(self.loss, self.ways.of(arm), twin), self.lr, steps)
            for arm, twin in twins.items()
        }

    def sample(self, generator: torch.Generator) -> Points:
        """Random points inside and on the edges, all float32."""
        x, edge = (self._inside(count, generator) for count in (self.inside, self.edge))
        for part, (axis, at) in zip(edge.tensor_split(len(self.edges)), self.edges, strict=True):
            part[:, axis] = at
        return Points(x, edge, self.exact(edge.double()).float())

    def loss(self, way: Way, model: nn.Module, points: Points) -> Tensor:
        """C, with the derivatives in this way."""
        residual = self.residual(points.inside, *way(model, points.inside))
        miss = model(points.edge) - points.given
        return residual.square().mean() + self.weight * miss.square().mean()

    def grid(self) -> Tensor:
        """(GRID^2, 2), float64; the second axis runs faster."""
        lines = (
            torch.linspace(low, high, GRID, dtype=torch.float64)
            for low, high in zip(self.low, self.high, strict=True)
        )
        return torch.cartesian_prod(*lines)

    def _inside(self, count: int, generator: torch.Generator) -> Tensor:
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        return low + (high - low) * torch.rand(count, 2, generator=generator)
