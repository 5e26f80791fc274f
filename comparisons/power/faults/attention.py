"""The faults of attention and convolution."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.faults.fault import Bug, whole_tiles
from comparisons.power.operations.convolution import probabilities
from comparisons.power.operations.operation import Gradients


def of_probabilities(v: Values, p: Tensor) -> Gradients:
    """Attention's gradients with another P."""
    ds = p * (v.dp - (v.dp * p).sum(-1, keepdim=True))
    return {"q": ds @ v.k * v.scale, "k": ds.mT @ v.q * v.scale, "v": p.mT @ v.delta}


def of_scores(v: Values, ds: Tensor) -> Gradients:
    """dQ and dK with another dS."""
    return {"q": ds @ v.k * v.scale, "k": ds.mT @ v.q * v.scale}


def without_last_keys(dk: Tensor) -> Tensor:
    """Zeros for the keys of the last partial block."""
    return dk * (torch.arange(dk.shape[-2]) < whole_tiles(dk.shape[-2])).unsqueeze(-1)


def first_head(gradient: Tensor) -> Tensor:
    """The first head's gradient in every head."""
    return gradient[:, :1].expand_as(gradient)


ATTENTION: list[Bug] = [
    ("scale forgotten in dQ", lambda v: {"q": v.ds @ v.k}),
    ("scale twice in dK", lambda v: {"k": v.right["k"] * v.scale}),
    ("scale 1/d for 1/√d", lambda v: {n: v.right[n] * v.scale for n in ("q", "k")}),
    ("softmax's row sum missing", lambda v: of_scores(v, v.p * v.dp)),
    ("row sum without P", lambda v: of_scores(v, v.p * (v.dp - v.dp.sum(-1, keepdim=True)))),
    ("row sum over queries", lambda v: of_scores(v, v.p * (v.dp - (v.dp * v.p).sum(-2, True)))),
    ("P outside the bracket forgotten",
     lambda v: of_scores(v, v.dp - (v.dp * v.p).sum(-1, keepdim=True))),
    ("causal mask one place late", lambda v: of_probabilities(v, probabilities(v.q, v.k, 2))),
    ("causal mask forgotten", lambda v: of_probabilities(v, probabilities(v.q, v.k, 99))),
    ("dK and dQ swapped", lambda v: {"q": v.right["k"], "k": v.right["q"]}),
    ("dV with P not transposed", lambda v: {"v": v.p @ v.delta}),
    ("dV without P's normalization", lambda v: {"v": unnormalized(v).mT @ v.delta}),
    ("dK with dS not transposed", lambda v: {"k": v.ds @ v.q * v.scale}),
    ("dQ with V for K", lambda v: {"q": v.ds @ v.v * v.scale}),
    ("last partial block of keys missing",
     lambda v: {n: without_last_keys(v.right[n]) for n in ("k", "v")}),
    ("one head's dK in every head", lambda v: {"k": first_head(v.right["k"])}),
]  # fmt: skip


def unnormalized(v: Values) -> Tensor:
    """exp(S - max S), masked."""
    return v.p / v.p.amax(-1, keepdim=True)


def shifted(dx: Tensor) -> Tensor:
    """One place further down and right."""
    return F.pad(dx, (1, 0, 1, 0))[..., :-1, :-1]


def stride_ignored(v: Values) -> Tensor:
    """dW as if neighbouring outputs came from neighbouring places."""
    height, width = v.delta.shape[2:]
    columns = F.unfold(v.x[..., :height, :width], 3, padding=1)
    columns = columns.reshape(len(v.x), v.operation.groups, -1, columns.shape[-1])
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
