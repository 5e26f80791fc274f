"""Causal attention by hand."""

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

    def plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Values:
        p = probabilities(q, k, 1)
        return Values(q=q, k=k, v=v, p=p, scale=q.shape[-1] ** -0.5, y=p @ v)

    def backward(self, v: Values) -> Gradients:
        v.dp = v.delta @ v.v.mT
        v.ds = score_gradient(v.p, v.dp)
        return of_scores(v, v.ds) | {"v": v.p.mT @ v.delta}


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
