"""The faults of layers: linear, activations, normalizations, a loss, a gate, embeddings, sums."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.faults.fault import Bug, whole_tiles
from comparisons.power.operations.layers import (
    gated,
    linear,
    normal_cdf,
    normal_density,
    normalized,
    scattered,
    silu_slope,
)
from comparisons.power.operations.operation import Gradients


def dz(v: Values) -> Tensor:
    """dz = delta f'(z), as it should be."""
    return v.delta * v.operation.slope(v.z)


LINEAR: list[Bug] = [
    ("dW transposed", lambda v: {"w": v.right["w"].t()}),
    ("dW of the other sign", lambda v: {"w": -v.right["w"]}),
    ("dW twice (accumulated again)", lambda v: {"w": 2 * v.right["w"]}),
    ("dW averaged over rows", lambda v: {"w": v.right["w"] / len(v.x)}),
    ("dW with y in place of x (stale buffer)", lambda v: {"w": dz(v).t() @ v.y}),
    ("dW without the last row", lambda v: {"w": dz(v)[:-1].t() @ v.x[:-1]}),
    (
        "dW without the last partial tile",
        lambda v: {"w": dz(v)[: whole_tiles(len(v.x))].t() @ v.x[: whole_tiles(len(v.x))]},
    ),
    ("dW: last column not written", lambda v: {"w": F.pad(v.right["w"][:, :-1], (0, 1))}),
    ("dW rounded to bfloat16", lambda v: {"w": v.right["w"].bfloat16().to(v.w.dtype)}),
    ("dW with x one row late", lambda v: {"w": dz(v).t() @ v.x.roll(1, 0)}),
    ("db missing", lambda v: {"b": None}),
    ("db: mean for sum", lambda v: {"b": v.right["b"] / len(v.x)}),
    ("db from delta, without f'", lambda v: {"b": v.delta.sum(0)}),
    ("dx with W for its transpose", lambda v: {"x": dz(v) @ v.w.t()}),
    ("dx missing", lambda v: {"x": None}),
    ("f' forgotten", lambda v: linear(v, v.delta)),
    ("f' at a instead of z", lambda v: linear(v, v.delta * v.operation.slope(v.y))),
    ("tanh' as 1 - a, not squared", lambda v: linear(v, v.delta * (1 - v.y))),
]
RELU: list[Bug] = [
    ("mask from x instead of z", lambda v: linear(v, v.delta * (v.x > 0))),
    ("mask from delta instead of z", lambda v: linear(v, v.delta * (v.delta > 0))),
    ("mask z < 0", lambda v: linear(v, v.delta * (v.z < 0))),
    ("mask in dx only, not in dW", lambda v: {"w": v.delta.t() @ v.x}),
]


# For the first of eight layers: its gradients are of size 1e-6, too small for absolute tolerances.
VANISHING: list[Bug] = [
    ("dW missing", lambda v: {"w": None}),
    ("dW of the other sign", lambda v: {"w": -v.right["w"]}),
    ("dW twice (accumulated again)", lambda v: {"w": 2 * v.right["w"]}),
    ("db: mean for sum", lambda v: {"b": v.right["b"] / len(v.x)}),
    ("f' as a, not a (1 - a)", lambda v: linear(v, v.delta * v.y)),
]


def mean(values: Tensor) -> Tensor:
    """Over the features."""
    return values.mean(-1, keepdim=True)


def of_rstd(v: Values, r: Tensor) -> Gradients:
    """LayerNorm's gradients with another r, and the x̂ it makes."""
    hat = v.centred * r
    return {"x": normalized(v.delta * v.gamma, hat, r), "gamma": (v.delta * hat).sum(0)}


def norm_x(v: Values, g: Tensor, mean_g: Tensor, mean_gx: Tensor) -> Gradients:
    """dC/dx from its three parts."""
    return {"x": v.r * (g - mean_g - v.hat * mean_gx)}


LAYER_NORM: list[Bug] = [
    ("mean term missing", lambda v: {"x": v.r * (g(v) - v.hat * mean(g(v) * v.hat))}),
    ("x̂ term missing", lambda v: {"x": v.r * (g(v) - mean(g(v)))}),
    ("x̂ term of the other sign", lambda v: norm_x(v, g(v), mean(g(v)), -mean(g(v) * v.hat))),
    ("both terms missing", lambda v: {"x": v.r * g(v)}),
    ("mean term without gamma", lambda v: norm_x(v, g(v), mean(v.delta), mean(g(v) * v.hat))),
    ("x̂ term without gamma", lambda v: norm_x(v, g(v), mean(g(v)), mean(v.delta * v.hat))),
    ("gamma forgotten", lambda v: {"x": normalized(v.delta, v.hat, v.r)}),
    ("rstd forgotten", lambda v: {"x": v.right["x"] / v.r}),
    ("eps forgotten in rstd", lambda v: of_rstd(v, v.variance.rsqrt())),
    ("variance unbiased", lambda v: of_rstd(v, unbiased(v))),
    ("means over rows", lambda v: norm_x(v, g(v), g(v).mean(0), (g(v) * v.hat).mean(0))),
    ("dgamma without x̂", lambda v: {"gamma": v.delta.sum(0)}),
    ("dgamma with x for x̂", lambda v: {"gamma": (v.delta * v.x).sum(0)}),
    ("dgamma without the last partial tile",
     lambda v: {"gamma": (v.delta * v.hat)[: whole_tiles(len(v.x))].sum(0)}),
    ("dbeta: mean for sum", lambda v: {"beta": v.delta.mean(0)}),
    ("dbeta and dgamma swapped",
     lambda v: {"gamma": v.right["beta"], "beta": v.right["gamma"]}),
]  # fmt: skip


def g(v: Values) -> Tensor:
    """dC/dx̂."""
    return v.delta * v.gamma


def unbiased(v: Values) -> Tensor:
    """r with n - 1 for n."""
    n = v.x.shape[-1]
    return (v.variance * n / (n - 1) + v.operation.eps).rsqrt()


GELU: list[Bug] = [
    ("z φ(z) missing in GELU'", lambda v: linear(v, v.delta * normal_cdf(v.z))),
    ("φ(z) without z", lambda v: linear(v, v.delta * (normal_cdf(v.z) + normal_density(v.z)))),
    (
        "GELU' of the tanh formula",
        lambda v: linear(v, torch.ops.aten.gelu_backward(v.delta, v.z, approximate="tanh")),
    ),
    ("GELU' as that of SiLU", lambda v: linear(v, v.delta * silu_slope(v.z))),
]


CROSS_ENTROPY: list[Bug] = [
    ("one-hot missing", lambda v: {"z": v.p * v.kept * v.delta / v.count}),
    ("ignored labels not masked", lambda v: {"z": (v.p - v.onehot) * v.delta / v.count}),
    ("sum for mean", lambda v: {"z": v.right["z"] * v.count}),
    ("mean over ignored rows too", lambda v: {"z": v.right["z"] * v.count / len(v.p)}),
    ("grad_output taken for 1", lambda v: {"z": (v.p - v.onehot) * v.kept / v.count}),
]
RMS_NORM: list[Bug] = [
    ("x̂ term missing", lambda v: {"x": v.r * g(v)}),
    (
        "x̂ term: sum for mean",
        lambda v: {"x": v.r * (g(v) - v.hat * (g(v) * v.hat).sum(-1, keepdim=True))},
    ),
    ("eps forgotten in r", lambda v: {"gamma": (v.delta * v.x * v.square.rsqrt()).sum(0)}),
    ("dgamma with y for x̂", lambda v: {"gamma": (v.delta * v.y).sum(0)}),
]
SWIGLU: list[Bug] = [
    ("dGate and dUp swapped", lambda v: {"gate": v.right["up"], "up": v.right["gate"]}),
    ("SiLU' as the sigmoid", lambda v: gated(v, v.delta * v.u * v.s, v.delta * v.a * v.s)),
    ("dx of the gate alone", lambda v: {"x": (v.delta * v.u * silu_slope(v.a)) @ v.gate}),
    ("dUp with a for silu(a)", lambda v: {"up": (v.delta * v.a).t() @ v.x}),
]


def rows(v: Values) -> tuple[Tensor, Tensor]:
    """All words, one after the other, and their deltas."""
    words = v.labels.flatten()
    return words, v.delta.reshape(len(words), -1)


def counts(v: Values) -> Tensor:
    """How often each word is used, at least 1."""
    return rows(v)[0].bincount(minlength=len(v.w)).clamp(min=1).unsqueeze(-1)


def overwritten(v: Values) -> Gradients:
    """dW with the last delta of each word alone."""
    last: dict[int, int] = {int(word): i for i, word in enumerate(rows(v)[0])}
    kept = torch.tensor(sorted(last.values()))
    return scattered(v, rows(v)[0][kept], rows(v)[1][kept])


EMBEDDING: list[Bug] = [
    ("repeated words overwrite", overwritten),
    ("mean over a word's uses", lambda v: {"w": v.right["w"] / counts(v)}),
    ("words one off", lambda v: scattered(v, (rows(v)[0] + 1) % len(v.w), rows(v)[1])),
    ("last word missing", lambda v: scattered(v, rows(v)[0][:-1], rows(v)[1][:-1])),
]
CUMULATIVE_SUM: list[Bug] = [
    ("sum not reversed", lambda v: {"x": v.delta.cumsum(-1)}),
    ("sum without the place itself", lambda v: {"x": v.right["x"] - v.delta}),
]
