"""Causal attention by hand, and its faults."""

from __future__ import annotations

import math
from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import TILE, Bug, Gradients, Operation


class Attention(Operation):
    """P = softmax(Q Kᵀ / √d), y = P V, causal; dS = P (dP - Σ dP P), dQ = dS K / √d, ..."""

    arguments = ("q", "k", "v")

    def plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Values:
        p = probabilities(q, k, 1)
        return Values(q=q, k=k, v=v, p=p, scale=q.shape[-1] ** -0.5, y=p @ v)

    def backward(self, v: Values) -> Gradients:
        v.dp = v.delta @ v.v.mT
        v.ds = score_gradient(v.p, v.dp)
        return of_scores(v, v.ds) | {"v": v.p.mT @ v.delta}


def heads(x: Tensor, *weights: Tensor) -> list[Tensor]:
    """x Wᵀ for each W, split into two heads of 4."""
    return [(x @ w.t()).reshape(*x.shape[:2], 2, 4).transpose(1, 2) for w in weights]


def probabilities(q: Tensor, k: Tensor, diagonal: int) -> Tensor:
    """softmax(Q Kᵀ / √d) where keys from ``diagonal`` places after the query on are masked."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    masked = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(diagonal)
    return scores.masked_fill(masked, -math.inf).softmax(-1)


def score_gradient(p: Tensor, dp: Tensor) -> Tensor:
    """dS = P (dP - Σ dP P), through the softmax."""
    return p * (dp - (dp * p).sum(-1, keepdim=True))


def of_scores(v: Values, ds: Tensor) -> Gradients:
    """dQ = dS K / √d, dK = dSᵀ Q / √d."""
    return {"q": ds @ v.k * v.scale, "k": ds.mT @ v.q * v.scale}


def of_probabilities(v: Values, p: Tensor) -> Gradients:
    """Attention's gradients with another P."""
    return of_scores(v, score_gradient(p, v.dp)) | {"v": p.mT @ v.delta}


def without_last_keys(dk: Tensor) -> Tensor:
    """Zeros for the keys of the last partial block."""
    last = dk.shape[-2] % TILE
    return F.pad(dk[..., :-last, :], (0, 0, 0, last))


ATTENTION_FAULTS: list[Bug] = [
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
    ("dV without P's normalization",
     lambda v: {"v": (v.p / v.p.amax(-1, keepdim=True)).mT @ v.delta}),
    ("dK with dS not transposed", lambda v: {"k": v.ds @ v.q * v.scale}),
    ("dQ with V for K", lambda v: {"q": v.ds @ v.v * v.scale}),
    ("last partial block of keys missing",
     lambda v: {n: without_last_keys(v.right[n]) for n in ("k", "v")}),
    ("one head's dK in every head", lambda v: {"k": v.right["k"][:, :1].expand_as(v.k)}),
]  # fmt: skip
