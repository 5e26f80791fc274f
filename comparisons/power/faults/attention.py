"""The faults of attention."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
from torch import Tensor

from comparisons.power.faults.fault import Bug, whole_tiles
from comparisons.power.operations.attention import of_scores, probabilities, score_gradient
from comparisons.power.operations.operation import Gradients


def of_probabilities(v: Values, p: Tensor) -> Gradients:
    """Attention's gradients with another P."""
    return of_scores(v, score_gradient(p, v.dp)) | {"v": p.mT @ v.delta}


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
