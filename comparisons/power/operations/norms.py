"""Normalizations by hand, and their faults."""

from __future__ import annotations

from types import SimpleNamespace as Values

import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Bug, Gradients, Operation, in_tiles


def mean(values: Tensor) -> Tensor:
    """Over the features."""
    return values.mean(-1, keepdim=True)


class LayerNorm(Operation):
    """y = x̂ γ + β, x̂ = (x - mean) r; dx = r (g - mean g - x̂ mean(g x̂)), g = delta γ."""

    arguments = ("x", "gamma", "beta")
    eps = 1e-3

    def plain(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], gamma, beta, self.eps)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Values:
        centred = x - mean(x)
        variance = mean(centred.square())
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
        square = mean(x.square())
        r = (square + self.eps).rsqrt()
        return Values(x=x, gamma=gamma, square=square, r=r, hat=x * r, y=x * r * gamma)

    def backward(self, v: Values) -> Gradients:
        g = v.delta * v.gamma
        return {"x": v.r * (g - v.hat * mean(g * v.hat)), "gamma": (v.delta * v.hat).sum(0)}


def normalized(g: Tensor, hat: Tensor, r: Tensor) -> Tensor:
    """r (g - mean g - x̂ mean(g x̂)), the input gradient of a LayerNorm."""
    return r * (g - mean(g) - hat * mean(g * hat))


def of_rstd(v: Values, r: Tensor) -> Gradients:
    """LayerNorm's gradients with another r, and the x̂ it makes."""
    hat = v.centred * r
    return {"x": normalized(v.delta * v.gamma, hat, r), "gamma": (v.delta * hat).sum(0)}


def norm_x(v: Values, g: Tensor, mean_g: Tensor | float, mean_gx: Tensor) -> Gradients:
    """dC/dx from its three parts."""
    return {"x": v.r * (g - mean_g - v.hat * mean_gx)}


def g(v: Values) -> Tensor:
    """dC/dx̂."""
    return v.delta * v.gamma


def unbiased(v: Values) -> Tensor:
    """r with n - 1 for n."""
    n = v.x.shape[-1]
    return (v.variance * n / (n - 1) + v.operation.eps).rsqrt()


LAYER_NORM_FAULTS: list[Bug] = [
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
    ("dgamma without the last partial tile", lambda v: {"gamma": in_tiles(v.delta * v.hat).sum(0)}),
    ("dbeta: mean for sum", lambda v: {"beta": v.delta.mean(0)}),
    ("dbeta and dgamma swapped",
     lambda v: {"gamma": v.right["beta"], "beta": v.right["gamma"]}),
]  # fmt: skip
RMS_NORM_FAULTS: list[Bug] = [
    ("x̂ term missing", lambda v: {"x": v.r * g(v)}),
    ("x̂ term: sum for mean", lambda v: norm_x(v, g(v), 0, (g(v) * v.hat).sum(-1, keepdim=True))),
    ("eps forgotten in r", lambda v: {"gamma": (v.delta * v.x * v.square.rsqrt()).sum(0)}),
    ("dgamma with y for x̂", lambda v: {"gamma": (v.delta * v.y).sum(0)}),
]
