"""The steps: the gradient of a cost made of u, of its first, or of its second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Cost = Callable[[nn.Module, Tensor, Tensor], Tensor]
TRAINING, INPUT_GRADIENT, LAPLACIAN = "training", "input gradient", "Laplacian"


def training(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (u(x) - y)^2."""
    return nn.functional.mse_loss(model(x), y)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (|du/dx| - 1)^2, the eikonal equation; its gradient has second derivatives."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def laplacian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (sum_i d2u/dx_i^2 - y)^2, Poisson's equation; its gradient has third derivatives."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    curvature = [
        torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0][:, i : i + 1]
        for i in range(x.shape[1])
    ]
    return (sum(curvature, torch.zeros_like(y)) - y).square().mean()


COSTS: dict[str, Cost] = {
    TRAINING: training,
    INPUT_GRADIENT: input_gradient,
    LAPLACIAN: laplacian,
}
