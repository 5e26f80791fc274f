"""Activations as the kernels compute them: f and f' side by side, in float32.

    a = f(z)        f' from z, or from a where the Activation says so (activations/)

F names f, and p and q are its parameters, as ``code`` gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl

from manualbp.fast.gpu.kernels.scalar import exp, expm1, log1p, sigmoid, tanh
from manualbp.maths import activations as fs
from manualbp.maths.activations.rectifiers import SELU_ALPHA, SELU_SCALE


class ActivationCode(NamedTuple):
    """An activation as arguments of a kernel."""

    name: str = "none"
    p: float = 0.0
    q: float = 0.0


CODES: dict[type[fs.Activation], Callable[[Any], ActivationCode]] = {
    fs.Identity: lambda f: ActivationCode(),
    fs.Sigmoid: lambda f: ActivationCode("sigmoid"),
    fs.Tanh: lambda f: ActivationCode("tanh"),
    fs.ReLU: lambda f: ActivationCode("relu"),
    fs.LeakyReLU: lambda f: ActivationCode("leaky_relu", f.negative_slope),
    fs.ELU: lambda f: ActivationCode("elu", f.alpha, 1.0),
    fs.SELU: lambda f: ActivationCode("elu", SELU_SCALE * SELU_ALPHA, SELU_SCALE),
    fs.GELU: lambda f: ActivationCode("gelu"),
    fs.GELUTanh: lambda f: ActivationCode("gelu_tanh"),
    fs.SiLU: lambda f: ActivationCode("silu"),
    fs.Softplus: lambda f: ActivationCode("softplus", f.beta, f.threshold),
    fs.Hardtanh: lambda f: ActivationCode("hardtanh", f.min_val, f.max_val),
}


def code(activation: fs.Activation | None) -> ActivationCode:
    """The activation as arguments of a kernel; None is the identity."""
    return ActivationCode() if activation is None else CODES[type(activation)](activation)


@triton.jit
def f(z, F: tl.constexpr, p: tl.constexpr, q: tl.constexpr):
    """a = f(z). The comparisons keep NaN as NaN."""
    a = z
    if F == "relu":
        a = tl.where(z <= 0, 0.0, z)
    elif F == "leaky_relu":
        a = tl.where(z > 0, z, z * p)
    elif F == "elu":
        a = tl.where(z > 0, z * q, expm1(tl.where(z > 0, 0.0, z)) * p)
    elif F == "sigmoid":
        a = sigmoid(z)
    elif F == "tanh":
        a = tanh(z)
    elif F == "silu":
        a = z / (1.0 + exp(-z))
    elif F == "gelu":
        a = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif F == "gelu_tanh":
        a = z * sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
    elif F == "softplus":
        y = z * p
        a = tl.where(y > q, z, (tl.where(y > 0, y, 0.0) + log1p(exp(-tl.abs(y)))) / p)
    elif F == "hardtanh":
        a = tl.where(z < p, p, tl.where(z > q, q, z))
    return a


@triton.jit
def slope(c, F: tl.constexpr, p: tl.constexpr, q: tl.constexpr):
    """f' from c: a for relu, sigmoid and tanh, z for the others."""
    d = tl.full(c.shape, 1.0, tl.float32)
    if F == "relu":
        d = tl.where(c <= 0, 0.0, 1.0)
    elif F == "leaky_relu":
        d = tl.where(c > 0, 1.0, p)
    elif F == "elu":
        d = tl.where(c > 0, q, exp(tl.where(c > 0, 0.0, c)) * p)
    elif F == "sigmoid":
        d = (1.0 - c) * c
    elif F == "tanh":
        d = 1.0 - c * c
    elif F == "silu":
        s = sigmoid(c)
        d = s * (1.0 + c * (1.0 - s))
    elif F == "gelu":
        density = exp(-0.5 * c * c) * 0.3989422804014327
        d = 0.5 * (1.0 + tl.erf(c * 0.7071067811865476)) + c * density
    elif F == "gelu_tanh":
        # f = c s(u), s the sigmoid: s' = e / (1 + e)^2, e = e^-|u|, exact for both signs of u
        u = 1.5957691216057308 * (c + 0.044715 * c * c * c)
        du = 1.5957691216057308 * (1.0 + 3 * 0.044715 * c * c)
        e = exp(-tl.abs(u))
        r = 1.0 / (1.0 + e)
        d = tl.where(u > 0, r, e * r) + c * (e * r * r) * du
    elif F == "softplus":
        d = tl.where(c * p > q, 1.0, sigmoid(c * p))
    elif F == "hardtanh":
        d = tl.where((c <= p) | (c >= q), 0.0, 1.0)
    return d


@triton.jit
def through(delta, c, F: tl.constexpr, p: tl.constexpr, q: tl.constexpr):
    """delta f'. 0 where f is flat, as in autograd, even if delta is infinite or NaN."""
    d = slope(c, F, p, q)
    return tl.where(d == 0.0, 0.0, delta) if F == "relu" or F == "hardtanh" else delta * d
