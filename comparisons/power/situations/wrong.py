"""Kernels that are right in one plain forward and backward, and wrong in a situation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from comparisons.power.situations.layer import (
    UNITS,
    WIDTH,
    Dense,
    NoneKept,
    SinCos,
    TwoBiases,
    as_dense,
    of,
    of_z,
)


class DenseInput(Dense):
    """x is taken for contiguous."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return Dense.forward(ctx, owner, as_dense(x), w, b)


class TransposedGrad(Dense):
    """Rows of grad_output are taken to lie one behind the other."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        across = 0 < delta.stride(0) < delta.stride(1)
        return of(as_dense(delta) if across else delta, *ctx.saved_tensors)


class SlicedGrad(Dense):
    """The elements of a row of grad_output are taken to lie side by side."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        gaps = 1 < delta.stride(1) < delta.stride(0)
        return of(as_dense(delta) if gaps else delta, *ctx.saved_tensors)


class ExpandedGrad(Dense):
    """grad_output is taken to have memory for each element: wrong behind a ``sum``."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        return of(as_dense(delta) if 0 in delta.stride() else delta, *ctx.saved_tensors)


class EatsSaved(Dense):
    """1 - y² is computed in the memory of the saved y, through .data: no version is counted."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        slope = y.data.square_().neg_().add_(1)
        return of_z(delta * slope, x, w)


class FreesSaved(Dense):
    """What backward read is dropped, so that a second one raises."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.kept = [x, w, torch.tanh(x @ w.t() + b)]
        return ctx.kept[-1].clone()

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        y, w, x = ctx.kept.pop(), ctx.kept.pop(), ctx.kept.pop()
        return of(delta, x, w, y)


class WritesInput(Dense):
    """dx is stored over x, through NumPy's view of its memory."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        found = of(delta, x, w, y)
        x.detach().numpy()[...] = found[1].numpy()
        return found


class WritesParameter(Dense):
    """dW is stored over W, through .data."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        found = of(delta, x, w, y)
        w.data.copy_(found[2])
        return found


class WritesOutput(Dense):
    """dz is stored over y, which the program still has."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = torch.tanh(x @ w.t() + b)
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        dz = y.data.square_().neg_().add_(1).mul_(delta)
        return of_z(dz.clone(), x, w)


class WritesGradOutput(Dense):
    """dz is stored over grad_output, which a branch beside it may read."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        return of_z(delta.data.mul_(1 - y * y), x, w)


class KeptOnClass(Dense):
    """What backward reads stands on the class."""

    kept: tuple[Tensor, ...]

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = torch.tanh(x @ w.t() + b)
        KeptOnClass.kept = x, w, y.clone()
        return y

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        return of(delta, *KeptOnClass.kept)


class KeptOnModule(Dense):
    """y stands on the module."""

    @staticmethod
    def forward(ctx: Any, owner: nn.Module, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        owner.__dict__["kept"] = torch.tanh(x @ w.t() + b)
        ctx.owner = owner
        ctx.save_for_backward(x, w)
        return owner.__dict__["kept"].clone()

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return of(delta, x, w, ctx.owner.__dict__["kept"])


class SlopeWithWeight(Dense):
    """f' is multiplied in only where dW is asked for: dx is wrong where W is frozen."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        dz = delta * (1 - y * y) if ctx.needs_input_grad[2] else delta
        return of_z(dz, x, w)


class NothingWithoutInput(Dense):
    """Backward returns early where dx is not asked for: dW and db are missing."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        if not ctx.needs_input_grad[1]:
            return None, None, None, None
        return of(delta, *ctx.saved_tensors)


class NoneAsOnes(NoneKept):
    """The None of an unused output is taken for ones."""

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, dc: Tensor | None) -> Any:
        z = ctx.saved_tensors[2]
        ds, dc = (torch.ones_like(z) if d is None else d for d in (ds, dc))
        return SinCos.backward(ctx, ds, dc)


class NoneRaises(NoneKept):
    """The None of an unused output is not thought of."""

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, dc: Tensor | None) -> Any:
        return SinCos.backward(ctx, ds, dc)  # type: ignore[arg-type]


class OneBuffer(Dense):
    """dW is handed out in the same memory at every call; autograd keeps it as .grad."""

    buffers: ClassVar[dict[torch.dtype, Tensor]] = {}

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        _, dx, dw, db = of(delta, *ctx.saved_tensors)
        buffer = OneBuffer.buffers.setdefault(dw.dtype, torch.empty_like(dw))
        return None, dx, buffer.copy_(dw).view(UNITS, WIDTH), db


class OneBufferForTwo(TwoBiases):
    """db and dc are two views of the same memory; what is added to one is added to both."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        db = delta.sum(0)
        return None, delta, db.view(WIDTH), db.view(WIDTH)
