"""An operation with its backward written by hand, and the Function that runs them all.

``plain`` is PyTorch's own, with autograd's gradients. ``forward`` returns y and whatever backward
needs, by name. ``backward`` returns a gradient for each argument, from ``v.delta`` = dC/dy. A fault
is planted after backward: ``change(v)`` returns the gradients that autograd gets instead.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace as Values
from typing import Any

import torch
from torch import Tensor

Gradients = dict[str, Tensor | None]
Change = Callable[[Values], Gradients]
Bug = tuple[str, Change]  # its name, and the gradients as it makes them

TILE = 8  # rows that a tiled kernel takes at once; the last tile of every network is a partial one


class Operation:
    """y = f(arguments), by PyTorch and by hand."""

    arguments: tuple[str, ...]

    plain: Callable[..., Tensor]
    forward: Callable[..., Values]

    def backward(self, v: Values) -> Gradients:
        raise NotImplementedError


class ByHand(torch.autograd.Function):
    """An operation as an autograd.Function; ``change`` replaces gradients of its backward."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, change: Change | None, *tensors: Tensor) -> Tensor:
        ctx.operation, ctx.change = operation, change
        ctx.save_for_backward(*tensors)
        return operation.forward(*tensors).y

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Any, ...]:
        v = ctx.operation.forward(*ctx.saved_tensors)
        v.delta, v.operation = deltas[0], ctx.operation
        v.right = ctx.operation.backward(v)
        found = v.right | (ctx.change(v) if ctx.change else {})
        return None, None, *(found.get(name) for name in ctx.operation.arguments)


def in_tiles(rows: Tensor) -> Tensor:
    """The rows that are in whole tiles."""
    return rows[: len(rows) // TILE * TILE]
