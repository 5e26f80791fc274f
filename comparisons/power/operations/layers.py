"""Layers by hand: linear with activation, normalizations, a loss, a gate, embeddings, sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Gradients, Operation

IGNORED = -100  # a label that counts for nothing


def normal_cdf(z: Tensor) -> Tensor:
    """Φ(z)."""
    return 0.5 * torch.special.erfc(-z * math.sqrt(0.5))


def normal_density(z: Tensor) -> Tensor:
    """φ(z) = Φ'(z)."""
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def silu_slope(z: Tensor) -> Tensor:
    """σ (1 + z (1 - σ))."""
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


F_AND_SLOPE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (torch.clone, torch.ones_like),
    "relu": (torch.relu, lambda z: (z > 0).to(z.dtype)),
    "tanh": (torch.tanh, lambda z: 1 - z.tanh().square()),
    "sigmoid": (torch.sigmoid, lambda z: z.sigmoid() * (1 - z.sigmoid())),
    "gelu": (lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * normal_density(z)),
}


class LinearActivation(Operation):
    """z = x Wᵀ + b, y = f(z); dz = delta f'(z), dx = dz W, dW = dzᵀ x, db = Σₙ dz."""

    arguments = ("x", "w", "b")

    def __init__(self, f: str) -> None:
        self.f, (self.value, self.slope) = f, F_AND_SLOPE[f]

    def plain(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        z = F.linear(x, w, b)
        return F.gelu(z) if self.f == "gelu" else self.value(z)

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Values:
        z = x @ w.t() + b
        return Values(x=x, w=w, b=b, z=z, y=self.value(z))

    def backward(self, v: Values) -> Gradients:
        return linear(v, v.delta * self.slope(v.z))


class LayerNorm(Operation):
    """y = x̂ γ + β, x̂ = (x - mean) r; dx = r (g - mean g - x̂ mean(g x̂)), g = delta γ."""

    arguments = ("x", "gamma", "beta")
    eps = 1e-3

    def plain(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], gamma, beta, self.eps)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Values:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        r = (variance + self.eps).rsqrt()
        hat = centred * r
        return Values(x=x, gamma=gamma, centred=centred, variance=variance, r=r, hat=hat,
                      y=hat * gamma + beta)  # fmt: skip

    def backward(self, v: Values) -> Gradients:
        return {
            "x": normalized(v.delta * v.gamma, v.hat, v.r),
            "gamma": (v.delta * v.hat).sum(0),
            "beta": v.delta.sum(0),
        }


class RMSNorm(Operation):
    """y = x̂ γ, x̂ = x r, r = (mean x² + ε)^(-1/2); dx = r (g - x̂ mean(g x̂)), g = delta γ."""

    arguments = ("x", "gamma")
    eps = 1e-3

    def plain(self, x: Tensor, gamma: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], gamma, self.eps)

    def forward(self, x: Tensor, gamma: Tensor) -> Values:
        square = x.square().mean(-1, keepdim=True)
        r = (square + self.eps).rsqrt()
        return Values(x=x, gamma=gamma, square=square, r=r, hat=x * r, y=x * r * gamma)

    def backward(self, v: Values) -> Gradients:
        g = v.delta * v.gamma
        dx = v.r * (g - v.hat * (g * v.hat).mean(-1, keepdim=True))
        return {"x": dx, "gamma": (v.delta * v.hat).sum(0)}


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


class SwiGLU(Operation):
    """y = silu(a) u, a = x Gᵀ, u = x Uᵀ; da = delta u silu'(a), du = delta silu(a)."""

    arguments = ("x", "gate", "up")

    def plain(self, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(F.linear(x, gate)) * F.linear(x, up)

    def forward(self, x: Tensor, gate: Tensor, up: Tensor) -> Values:
        a, u = x @ gate.t(), x @ up.t()
        s = a.sigmoid()
        return Values(x=x, gate=gate, up=up, a=a, u=u, s=s, y=a * s * u)

    def backward(self, v: Values) -> Gradients:
        return gated(v, v.delta * v.u * silu_slope(v.a), v.delta * v.a * v.s)


class Embedding(Operation):
    """y = W[labels]; dW[i] = Σ delta where label = i."""

    arguments = ("labels", "w")

    def plain(self, labels: Tensor, w: Tensor) -> Tensor:
        return F.embedding(labels, w)

    def forward(self, labels: Tensor, w: Tensor) -> Values:
        return Values(labels=labels, w=w, y=w[labels])

    def backward(self, v: Values) -> Gradients:
        labels = v.labels.flatten()
        return scattered(v, labels, v.delta.reshape(len(labels), -1))


class CumulativeSum(Operation):
    """y_t = Σ_{s <= t} x_s; dx_s = Σ_{t >= s} delta_t."""

    arguments = ("x",)

    def plain(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)

    def forward(self, x: Tensor) -> Values:
        return Values(x=x, y=x.cumsum(-1))

    def backward(self, v: Values) -> Gradients:
        return {"x": v.delta.flip(-1).cumsum(-1).flip(-1)}


def linear(v: Values, dz: Tensor) -> Gradients:
    """The three gradients of z = x Wᵀ + b."""
    return {"x": dz @ v.w, "w": dz.t() @ v.x, "b": dz.sum(0)}


def normalized(g: Tensor, hat: Tensor, r: Tensor) -> Tensor:
    """r (g - mean g - x̂ mean(g x̂)), the input gradient of a LayerNorm."""
    return r * (g - g.mean(-1, keepdim=True) - hat * (g * hat).mean(-1, keepdim=True))


def gated(v: Values, da: Tensor, du: Tensor) -> Gradients:
    """The three gradients of a = x Gᵀ, u = x Uᵀ."""
    return {"x": da @ v.gate + du @ v.up, "gate": da.t() @ v.x, "up": du.t() @ v.x}


def scattered(v: Values, labels: Tensor, deltas: Tensor) -> Gradients:
    """The gradient of y = W[labels]: to each row of dW the deltas of its label."""
    return {"w": torch.zeros_like(v.w).index_add(0, labels, deltas)}
