"""The derivatives that an equation needs, in two ways: nested torch.autograd.grad, and by hand.

Each pair takes (model, x) and returns the same tensors, each (N, 1) but du, which is (N, D). The
first is written as users write it: no derivative is computed that its equation does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import manualbp

AUTOGRAD, MANUAL = "autograd", "manual"
Way = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]


class Ways(NamedTuple):
    """The same derivatives in both ways."""

    autograd: Way
    manual: Way

    def of(self, arm: str) -> Way:
        """That of the arm of this name."""
        return self.manual if arm == MANUAL else self.autograd


def grad(u: Tensor, x: Tensor) -> Tensor:
    """du_n/dx_n of every point n, with a graph."""
    (found,) = torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True)
    return found


def laplacian_by_autograd(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """u, u_xx + u_yy."""
    x = x.detach().requires_grad_()
    u = model(x)
    du = grad(u, x)
    u_xx, u_yy = (grad(du[:, i], x)[:, i : i + 1] for i in (0, 1))
    return u, u_xx + u_yy


def laplacian_by_hand(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """u, u_xx + u_yy."""
    u, _, laplacian = manualbp.derivatives(model, x, "laplacian")
    return u, laplacian


def in_time_by_autograd(model: nn.Module, xt: Tensor) -> tuple[Tensor, ...]:
    """u, u_x, u_t, u_xx of an input (x, t)."""
    xt = xt.detach().requires_grad_()
    u = model(xt)
    du = grad(u, xt)
    u_xx = grad(du[:, 0], xt)[:, :1]
    return u, du[:, :1], du[:, 1:], u_xx


def in_time_by_hand(model: nn.Module, xt: Tensor) -> tuple[Tensor, ...]:
    """u, u_x, u_t, u_xx of an input (x, t)."""
    u, du, second = manualbp.derivatives(model, xt, [(0, 0)])
    return u, du[..., 0], du[..., 1], second[..., 0]


def gradient_by_autograd(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """u, du/dx."""
    x = x.detach().requires_grad_()
    u = model(x)
    return u, grad(u, x)


def gradient_by_hand(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """u, du/dx."""
    u, du = manualbp.derivatives(model, x)
    return u, du[:, 0]


LAPLACIAN = Ways(laplacian_by_autograd, laplacian_by_hand)
IN_TIME = Ways(in_time_by_autograd, in_time_by_hand)
GRADIENT = Ways(gradient_by_autograd, gradient_by_hand)
