"""Sums over rows, words or places, by hand, and their faults."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Bug, Gradients, Operation

IGNORED = -100  # a label that counts for nothing


class CrossEntropy(Operation):
    """y = -1/M Σ log p[label] over the M labels not ignored; dz = (p - onehot) delta / M."""

    arguments = ("z", "labels")

    def plain(self, z: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(z, labels, ignore_index=IGNORED)

    def forward(self, z: Tensor, labels: Tensor) -> Values:
        kept = labels != IGNORED
        log_p = z - z.logsumexp(-1, keepdim=True)
        onehot = F.one_hot(labels.clamp(min=0), z.shape[-1]).to(z.dtype)
        y = -(log_p * onehot).sum(-1)[kept].mean()
        return Values(p=log_p.exp(), onehot=onehot, kept=kept.unsqueeze(-1), count=kept.sum(), y=y)

    def backward(self, v: Values) -> Gradients:
        return {"z": (v.p - v.onehot) * v.kept * (v.delta / v.count)}


class Embedding(Operation):
    """y = W[labels]; dW[i] = Σ delta where label = i."""

    arguments = ("labels", "w")

    def plain(self, labels: Tensor, w: Tensor) -> Tensor:
        return F.embedding(labels, w)

    def forward(self, labels: Tensor, w: Tensor) -> Values:
        return Values(labels=labels, w=w, y=w[labels])

    def backward(self, v: Values) -> Gradients:
        return scattered(v, *rows(v))


class CumulativeSum(Operation):
    """y_t = Σ_{s <= t} x_s; dx_s = Σ_{t >= s} delta_t."""

    arguments = ("x",)

    def plain(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)

    def forward(self, x: Tensor) -> Values:
        return Values(x=x, y=x.cumsum(-1))

    def backward(self, v: Values) -> Gradients:
        return {"x": v.delta.flip(-1).cumsum(-1).flip(-1)}


def scattered(v: Values, labels: Tensor, deltas: Tensor) -> Gradients:
    """The gradient of y = W[labels]: to each row of dW the deltas of its label."""
    return {"w": torch.zeros_like(v.w).index_add(0, labels, deltas)}


def rows(v: Values) -> tuple[Tensor, Tensor]:
    """All words, one after the other, and their deltas."""
    words = v.labels.flatten()
    return words, v.delta.reshape(len(words), -1)


def overwritten(v: Values) -> Gradients:
    """dW with the last delta of each word alone."""
    last: dict[int, int] = {int(word): i for i, word in enumerate(rows(v)[0])}
    kept = torch.tensor(sorted(last.values()))
    return scattered(v, rows(v)[0][kept], rows(v)[1][kept])


CROSS_ENTROPY_FAULTS: list[Bug] = [
    ("one-hot missing", lambda v: {"z": v.p * v.kept * v.delta / v.count}),
    ("ignored labels not masked", lambda v: {"z": (v.p - v.onehot) * v.delta / v.count}),
    ("sum for mean", lambda v: {"z": v.right["z"] * v.count}),
    ("mean over ignored rows too", lambda v: {"z": v.right["z"] * v.count / len(v.p)}),
    ("grad_output taken for 1", lambda v: {"z": (v.p - v.onehot) * v.kept / v.count}),
]
EMBEDDING_FAULTS: list[Bug] = [
    ("repeated words overwrite", overwritten),
    ("mean over a word's uses", lambda v: {
        "w": v.right["w"] / rows(v)[0].bincount(minlength=len(v.w)).clamp(min=1)[:, None]}),
    ("words one off", lambda v: scattered(v, (rows(v)[0] + 1) % len(v.w), rows(v)[1])),
    ("last word missing", lambda v: scattered(v, rows(v)[0][:-1], rows(v)[1][:-1])),
]  # fmt: skip
CUMULATIVE_SUM_FAULTS: list[Bug] = [
    ("sum not reversed", lambda v: {"x": v.delta.cumsum(-1)}),
    ("sum without the place itself", lambda v: {"x": v.right["x"] - v.delta}),
]
