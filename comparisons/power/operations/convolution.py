"""The 3 x 3 convolution by hand."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Gradients, Operation


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
