"""The 3 x 3 convolution by hand, and its faults."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Bug, Gradients, Operation


class Convolution(Operation):
    """y = W * x + b over columns of x: y = W X, dW = Σₙ dy Xᵀ, dX = Wᵀ dy, db = Σ dy."""

    arguments = ("x", "w", "b")

    def __init__(self, stride: int, groups: int) -> None:
        self.stride, self.groups = stride, groups

    def plain(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, stride=self.stride, padding=1, groups=self.groups)

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Values:
        height, width = ((n + 2 - 3) // self.stride + 1 for n in x.shape[2:])
        y = self.kernels(w) @ self.columns(x)
        y = y.reshape(len(x), len(w), height, width) + b.reshape(-1, 1, 1)
        return Values(x=x, w=w, b=b, y=y)

    def columns(self, x: Tensor) -> Tensor:
        """(N, groups, C / groups * 9, positions)."""
        columns = F.unfold(x, 3, padding=1, stride=self.stride)
        return columns.reshape(len(x), self.groups, -1, columns.shape[-1])

    def kernels(self, w: Tensor) -> Tensor:
        """(groups, O / groups, C / groups * 9)."""
        return w.reshape(self.groups, len(w) // self.groups, -1)

    def backward(self, v: Values) -> Gradients:
        return {
            "x": self.input_gradient(v, v.w),
            "w": self.weight_gradient(v, self.columns(v.x)),
            "b": v.delta.sum((0, 2, 3)),
        }

    def input_gradient(self, v: Values, w: Tensor) -> Tensor:
        dy = self.grouped(v.delta)
        columns = (self.kernels(w).mT @ dy).reshape(len(v.x), -1, dy.shape[-1])
        return F.fold(columns, v.x.shape[2:], 3, padding=1, stride=self.stride)

    def weight_gradient(self, v: Values, columns: Tensor) -> Tensor:
        return (self.grouped(v.delta) @ columns.mT).sum(0).reshape(v.w.shape)

    def grouped(self, y: Tensor) -> Tensor:
        """(N, groups, O / groups, positions)."""
        return y.reshape(len(y), self.groups, y.shape[1] // self.groups, -1)


def stride_ignored(v: Values) -> Tensor:
    """dW as if neighbouring outputs came from neighbouring places."""
    height, width = v.delta.shape[2:]
    columns = Convolution(1, v.operation.groups).columns(v.x[..., :height, :width])
    return v.operation.weight_gradient(v, columns)


CONVOLUTION_FAULTS: list[Bug] = [
    ("dx: padding off by one",
     lambda v: {"x": F.pad(v.right["x"], (1, 0, 1, 0))[..., :-1, :-1]}),
    ("dx: kernel not flipped",
     lambda v: {"x": v.operation.input_gradient(v, v.w.flip(2, 3))}),
    ("dW flipped", lambda v: {"w": v.right["w"].flip(2, 3)}),
    ("dW: height and width swapped", lambda v: {"w": v.right["w"].transpose(2, 3)}),
    ("dW: stride ignored", lambda v: {"w": stride_ignored(v)}),
    ("dW: the other group's input",
     lambda v: {"w": v.operation.weight_gradient(v, v.operation.columns(v.x).flip(1))}),
    ("dx: kernels of the other group", lambda v: {"x": v.operation.input_gradient(
        v, v.w.roll(len(v.w) // 2, 0))}),
    ("dW of the last sample missing", lambda v: {"w": v.operation.weight_gradient(
        v, v.operation.columns(v.x) * torch.arange(len(v.x), 0, -1).gt(1).reshape(-1, 1, 1, 1))}),
    ("db over N, not over H and W", lambda v: {"b": v.delta.sum(0)[:, 0, 0]}),
    ("db over H and W, not over N", lambda v: {"b": v.delta[0].sum((1, 2))}),
    ("db: mean over H and W", lambda v: {"b": v.delta.mean((2, 3)).sum(0)}),
    ("db missing", lambda v: {"b": None}),
]  # fmt: skip
SQUARE_CONVOLUTION_FAULTS: list[Bug] = [
    ("dW: in and out channels swapped", lambda v: {"w": v.right["w"].transpose(0, 1)}),
    ("dx: in and out channels swapped",
     lambda v: {"x": v.operation.input_gradient(v, v.w.transpose(0, 1))}),
    ("dW: last row of outputs missing", lambda v: {"w": (
        v.operation.grouped(F.pad(v.delta[..., :-1, :], (0, 0, 0, 1)))
        @ v.operation.columns(v.x).mT).sum(0).reshape(v.w.shape)}),
]  # fmt: skip
