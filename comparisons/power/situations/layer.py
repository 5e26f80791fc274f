"""One layer by hand, y = tanh(x Wᵀ + b): the kernel under test, which each fault changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS, WIDTH, UNITS = 12, 5, 4
Kernel = type[torch.autograd.Function]


class Dense(torch.autograd.Function):
    """dz = delta (1 - y²), dx = dz W, dW = dzᵀ x, db = Σ dz. ``owner`` is the module around it."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = torch.tanh(x @ w.t() + b)
        ctx.save_for_backward(x, w, y.clone())
        return y

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        return of(delta, *ctx.saved_tensors)


def of(delta: Tensor, x: Tensor, w: Tensor, y: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
    """The gradients of owner, x, W and b."""
    dz = delta * (1 - y * y)
    return None, dz @ w, dz.t() @ x, dz.sum(0)


class SinCos(torch.autograd.Function):
    """Two outputs of z = x Wᵀ + b: sin z and cos z, one of which a program may not use."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Any:
        z = x @ w.t() + b
        ctx.save_for_backward(x, w, z)
        return z.sin(), z.cos()

    @staticmethod
    def backward(ctx: Any, ds: Tensor, dc: Tensor) -> Any:
        x, w, z = ctx.saved_tensors
        return of_z(ds * z.cos() - dc * z.sin(), x, w)


class NoneKept(SinCos):
    """The gradient of an unused output arrives as None."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        return SinCos.forward(ctx, owner, x, w, b)


def of_z(dz: Tensor, x: Tensor, w: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
    """The gradients of owner, x, W and b from dC/dz."""
    return None, dz @ w, dz.t() @ x, dz.sum(0)


class TwoBiases(torch.autograd.Function):
    """y = x + b + c: the gradients of b and c are the same numbers."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return x + b + c

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        db = delta.sum(0)
        return None, delta, db, db.clone()


def plain_dense(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """By PyTorch."""
    return torch.tanh(F.linear(x, w, b))


def plain_sin_cos(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """By PyTorch."""
    z = F.linear(x, w, b)
    return z.sin(), z.cos()


def plain_biases(x: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """By PyTorch."""
    return x + b + c


Plain = Callable[..., Any]
SHAPES: dict[Plain, tuple[tuple[int, ...], tuple[int, ...]]] = {
    plain_dense: ((UNITS, WIDTH), (UNITS,)),
    plain_sin_cos: ((UNITS, WIDTH), (UNITS,)),
    plain_biases: ((WIDTH,), (WIDTH,)),
}


class Layer(nn.Module):
    """``plain(x, *parameters)``, by PyTorch or by a kernel of the same formula."""

    def __init__(self, plain: Plain, kernel: Kernel | None = None) -> None:
        super().__init__()
        self.plain, self.kernel = plain, kernel
        first, second = SHAPES[plain]
        self.w = nn.Parameter(0.5 * torch.randn(first))
        self.b = nn.Parameter(0.5 * torch.randn(second))

    def forward(self, x: Tensor) -> Any:
        if self.kernel is None:
            return self.plain(x, self.w, self.b)
        return self.kernel.apply(self, x, self.w, self.b)  # type: ignore[no-untyped-call]


def as_dense(t: Tensor) -> Tensor:
    """What a kernel reads that ignores strides: t's memory in a row; zeros behind its end."""
    count = min(t.numel(), t.untyped_storage().size() // t.itemsize - int(t.storage_offset()))
    line = t.as_strided((count,), (1,))
    return F.pad(line, (0, t.numel() - count)).reshape(t.shape)
