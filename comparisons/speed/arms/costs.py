"""The cost of every step, with the derivatives by the input from nested autograd or another way.

    training         C = mean (u - y)^2
    input gradient   C = mean (|du/dx| - 1)^2                  eikonal: signed distances
    Laplacian        C = mean (sum_i d2u/dx_i^2 - y)^2         Poisson's equation
    directions       C = mean_k mean (d2u/dv_k^2 - y)^2        along K given vectors v_k

Means are over points and outputs. dC/dw of the second has second derivatives of u, of the others
third ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from comparisons.speed.workloads import DIRECTIONS, INPUT_GRADIENT, LAPLACIAN, TRAINING

Cost = Callable[[nn.Module, Tensor, Tensor], Tensor]
# way(model, x, second, lines): du/dx (N, O, I), or d2u: "laplacian" (N, O), "diagonal" (N, O, K).
Way = Callable[[nn.Module, Tensor, "str | None", "Tensor | None"], Tensor]
LINES = 8


def directions(x: Tensor) -> Tensor:
    """v (K, I) of -1 and 1, as in Hutchinson's estimator: every dtype has them exactly."""
    return _directions(x.shape[1], x.dtype, x.device)


@lru_cache
def _directions(inputs: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    random = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (LINES, inputs), generator=random)
    return (2 * signs - 1).to(device, dtype)


def training(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (u(x) - y)^2."""
    return nn.functional.mse_loss(model(x), y)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (|du/dx| - 1)^2 by nested autograd."""
    x = x.detach().requires_grad_()
    return _mean([(g.norm(dim=1) - 1).square().mean() for g in _gradients(model(x), x)])


def laplacian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (sum_i d2u/dx_i^2 - y)^2 by nested autograd."""
    x = x.detach().requires_grad_()
    costs = []
    for o, gradient in enumerate(_gradients(model(x), x)):
        curvature = [
            torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0][:, i : i + 1]
            for i in range(x.shape[1])
        ]
        y_o = y[:, o : o + 1]
        costs.append((sum(curvature, torch.zeros_like(y_o)) - y_o).square().mean())
    return _mean(costs)


def along_directions(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean_k mean (d2u/dv_k^2 - y)^2 by nested autograd."""
    x, lines = x.detach().requires_grad_(), directions(x)
    costs = []
    for o, gradient in enumerate(_gradients(model(x), x)):
        for v, slope in zip(lines, (gradient @ lines.t()).unbind(1), strict=True):
            (row,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
            costs.append((row @ v - y[:, o]).square().mean())
    return _mean(costs)


def _gradients(u: Tensor, x: Tensor) -> list[Tensor]:
    """du_o/dx (N, I), of every output."""
    outputs = [u] if u.shape[1] == 1 else u.unbind(1)
    return [torch.autograd.grad(u_o.sum(), x, create_graph=True)[0] for u_o in outputs]


def _mean(costs: Sequence[Tensor]) -> Tensor:
    return costs[0] if len(costs) == 1 else torch.stack(list(costs)).mean()


COSTS: dict[str, Cost] = {
    TRAINING: training,
    INPUT_GRADIENT: input_gradient,
    LAPLACIAN: laplacian,
    DIRECTIONS: along_directions,
}


def cost_by(step: str, way: Way, lines: Tensor) -> Cost:
    """The same cost, of derivatives that come in another way."""

    def of_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (way(model, x, None, None).norm(dim=2) - 1).square().mean()

    def of_laplacian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (way(model, x, "laplacian", None) - y).square().mean()

    def of_directions(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (way(model, x, "diagonal", lines) - y[..., None]).square().mean()

    costs = {INPUT_GRADIENT: of_gradient, LAPLACIAN: of_laplacian, DIRECTIONS: of_directions}
    return costs[step]
