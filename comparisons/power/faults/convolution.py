"""The faults of convolution."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.faults.fault import Bug
from comparisons.power.operations.convolution import Convolution


def shifted(dx: Tensor) -> Tensor:
    """One place further down and right."""
    return F.pad(dx, (1, 0, 1, 0))[..., :-1, :-1]


def stride_ignored(v: Values) -> Tensor:
    """dW as if neighbouring outputs came from neighbouring places."""
    height, width = v.delta.shape[2:]
    columns = Convolution(1, v.operation.groups).columns(v.x[..., :height, :width])
    return v.operation.weight_gradient(v, columns)


CONVOLUTION: list[Bug] = [
    ("dx: padding off by one", lambda v: {"x": shifted(v.right["x"])}),
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
SQUARE_CONVOLUTION: list[Bug] = [
    ("dW: in and out channels swapped", lambda v: {"w": v.right["w"].transpose(0, 1)}),
    ("dx: in and out channels swapped",
     lambda v: {"x": v.operation.input_gradient(v, v.w.transpose(0, 1))}),
    ("dW: last row of outputs missing", lambda v: {"w": (
        v.operation.grouped(F.pad(v.delta[..., :-1, :], (0, 0, 0, 1)))
        @ v.operation.columns(v.x).mT).sum(0).reshape(v.w.shape)}),
]  # fmt: skip
