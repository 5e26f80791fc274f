"""Operations that mix positions, by hand: causal attention and 3 x 3 convolution."""

from __future__ import annotations

import math
from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Gradients, Operation


class Attention(Operation):
    """P = softmax(Q Kᵀ / √d), y = P V, causal; dS = P (dP - Σ dP P), dQ = dS K / √d, ..."""

    arguments = ("q", "k", "v")

    def plain(self, *tensors: Tensor) -> Tensor:
        q, k, v = tensors
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, *tensors: Tensor) -> Values:
        q, k, v = tensors
        p = probabilities(q, k, 1)
        return Values(q=q, k=k, v=v, p=p, scale=q.shape[-1] ** -0.5, y=p @ v)

    def backward(self, v: Values) -> Gradients:
        dp = v.delta @ v.v.mT
        v.dp, v.ds = dp, v.p * (dp - (dp * v.p).sum(-1, keepdim=True))
        return {
            "q": v.ds @ v.k * v.scale,
            "k": v.ds.mT @ v.q * v.scale,
            "v": v.p.mT @ v.delta,
        }


class Convolution(Operation):
    """y = W * x + b over columns of x: y = W X, dW = Σₙ dy Xᵀ, dX = Wᵀ dy, db = Σ dy."""

    arguments = ("x", "w", "b")

    def __init__(self, stride: int, groups: int) -> None:
        self.stride, self.groups = stride, groups

    def plain(self, *tensors: Tensor) -> Tensor:
        x, w, b = tensors
        return F.conv2d(x, w, b, stride=self.stride, padding=1, groups=self.groups)

    def forward(self, *tensors: Tensor) -> Values:
        x, w, b = tensors
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


def probabilities(q: Tensor, k: Tensor, diagonal: int) -> Tensor:
    """softmax(Q Kᵀ / √d) where keys from ``diagonal`` places after the query on are masked."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    masked = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(diagonal)
    return scores.masked_fill(masked, -math.inf).softmax(-1)
