"""Kernels that do the same things rightly: a judge that refuses one of them is wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from comparisons.power.situations.layer import (
    UNITS,
    WIDTH,
    Dense,
    NoneKept,
    TwoBiases,
    as_dense,
    of,
    of_z,
)


class MadeContiguous(Dense):
    """Memory is read in a row, of copies that are contiguous."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return Dense.forward(ctx, owner, as_dense(x.contiguous()), w, b)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        return of(as_dense(delta.contiguous()), *ctx.saved_tensors)


class ReadByStrides(Dense):
    """Memory is read by the tensor's own strides."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        size, steps, start = delta.shape, delta.stride(), delta.storage_offset()
        return of(delta.as_strided(size, steps, start), *ctx.saved_tensors)


class EatsCopy(Dense):
    """What is written over is a copy."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        return of_z(y.clone().square_().neg_().add_(1).mul_(delta), x, w)


class ComputedAgain(Dense):
    """Nothing is kept but x and the parameters."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w, b)
        return torch.tanh(x @ w.t() + b)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, b = ctx.saved_tensors
        return of(delta, x, w, torch.tanh(x @ w.t() + b))


class OutputKept(Dense):
    """The output itself is kept, not a copy."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = torch.tanh(x @ w.t() + b)
        ctx.save_for_backward(x, w, y)
        return y


class Counts(Dense):
    """State on the module that no gradient reads: how many calls there were."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        owner.__dict__["calls"] = owner.__dict__.get("calls", 0) + 1
        return Dense.forward(ctx, owner, x, w, b)


class Workspace(Dense):
    """Memory on the class that every backward fills anew, and that nobody gets."""

    buffers: ClassVar[dict[torch.dtype, Tensor]] = {}

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        buffer = Workspace.buffers.setdefault(y.dtype, torch.empty_like(y))
        torch.mul(delta, 1 - y * y, out=buffer)
        return None, buffer @ w, buffer.t() @ x, buffer.sum(0)


class OnlyAsked(Dense):
    """What is not asked for is not computed."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        dz = delta * (1 - y * y)
        _, for_x, for_w, for_b = ctx.needs_input_grad
        return (None, dz @ w if for_x else None, dz.t() @ x if for_w else None,
                dz.sum(0) if for_b else None)  # fmt: skip


class Strided(Dense):
    """Gradients that are not contiguous: transposed ones."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        dz = delta * (1 - y * y)
        return None, (w.t() @ dz.t()).t(), (x.t() @ dz).t(), dz.sum(0)


class InFloat64(Dense):
    """float64 in between, through NumPy; no second order, which is said."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        arrays = [t.double().numpy() for t in (delta, *ctx.saved_tensors)]
        found = of(*map(torch.from_numpy, arrays))
        return None, *(g.to(delta.dtype) for g in found[1:])


class NoneAsZeros(NoneKept):
    """The None of an unused output is left out of the sum."""

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, dc: Tensor | None) -> Any:
        x, w, z = ctx.saved_tensors
        dz = torch.zeros_like(z) if ds is None else ds * z.cos()
        return of_z(dz if dc is None else dz - dc * z.sin(), x, w)


class OneForTwo(TwoBiases):
    """One tensor for both: autograd sees that it is the same, and adds to copies."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        db = delta.sum(0)
        return None, delta, db, db


class FreshView(Dense):
    """A view of memory of its own is no buffer that is handed out twice."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        _, dx, dw, db = of(delta, *ctx.saved_tensors)
        return None, dx, dw.flatten().view(UNITS, WIDTH), db
