"""Equivalences: two ways to compute the same, both right and rounded differently.

Other orders of sums, formulas written out, fused kernels, compiled code. An equivalence is a
reference, a candidate and the shapes of their arguments: x, which a scale multiplies, then
parameters of size 1 / sqrt(their last dimension).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.attention import heads, probabilities
from comparisons.power.operations.linear import SwiGLU, normal_cdf

Function = Callable[..., Tensor]
SHAPES: dict[str, Callable[[int], tuple[tuple[int, ...], ...]]] = {  # by the number of rows
    "linear": lambda rows: ((rows, 19), (11, 19), (11,)),
    "MLP": lambda rows: ((rows, 9), (13, 9), (13,), (5, 13), (5,)),
    "rowwise": lambda rows: ((rows, 23),),
    "norm": lambda rows: ((rows, 24), (24,), (24,)),
    "attention": lambda rows: ((1, rows, 8), (8, 8), (8, 8), (8, 8)),
    "convolution": lambda rows: ((2, 4, 7, rows // 4 + 2), (6, 4, 3, 3), (6,)),
    "SwiGLU": lambda rows: ((rows, 9), (7, 9), (7, 9)),
}


class Equivalence(NamedTuple):
    """A name, what shapes it takes, and the two ways; torch.compile the candidate or not."""

    name: str
    shapes: str  # of SHAPES
    reference: Function
    candidate: Function
    compiled: bool = False


def in_float32(function: Function) -> Function:
    """The function as a kernel computes it: 16-bit numbers in and out, float32 in between."""

    def wide(*tensors: Tensor) -> Tensor:
        dtype = tensors[0].dtype
        if dtype.itemsize > 2:
            return function(*tensors)
        return function(*(t.float() for t in tensors)).to(dtype)

    return wide


def _mlp(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w, b)), v, c)


@in_float32
def _gelu(z: Tensor) -> Tensor:
    return z * normal_cdf(z)


@in_float32
def _gelu_tanh(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))


@in_float32
def _softmax(z: Tensor) -> Tensor:
    e = torch.exp(z - z.amax(-1, keepdim=True).detach())
    return e / e.sum(-1, keepdim=True)


@in_float32
def _log_softmax(z: Tensor) -> Tensor:
    z = z - z.amax(-1, keepdim=True).detach()
    return z - z.exp().sum(-1, keepdim=True).log()


@in_float32
def _silu(z: Tensor) -> Tensor:
    return z * z.sigmoid()


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], gamma, beta)


def _rstd(x: Tensor) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


@in_float32
def _layer_norm_written(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * _rstd(centred) * gamma + beta


@in_float32
def _group_norm_written(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    ones = torch.ones(6, dtype=x.dtype)
    return _layer_norm_written(x.reshape(-1, 4, 6), ones, 0 * ones).flatten(1) * gamma + beta


def _cross_entropy_written(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    z = F.linear(x, w, b)
    return -F.log_softmax(z, -1).gather(-1, _labels(x).unsqueeze(-1)).sum() / len(z)


def _labels(x: Tensor) -> Tensor:
    """The same in both ways and in every dtype."""
    return torch.arange(len(x)) * 7 % 11


def _attention(x: Tensor, *weights: Tensor, causal: bool = False) -> Tensor:
    q, k, v = heads(x, *weights)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _attention_written(x: Tensor, *weights: Tensor, causal: bool = False) -> Tensor:
    q, k, v = heads(x, *weights)
    return probabilities(q, k, 1 if causal else k.shape[-2]) @ v


def _convolution_unfolded(x: Tensor, w: Tensor, b: Tensor, stride: int = 1) -> Tensor:
    height, width = ((n - 1) // stride + 1 for n in x.shape[2:])
    columns = F.unfold(x, 3, padding=1, stride=stride)
    return (w.flatten(1) @ columns + b.unsqueeze(-1)).reshape(len(x), len(w), height, width)


def _swiglu_packed(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """One product for both, and silu by its formula."""
    a, u = F.linear(x, torch.cat([gate, up])).chunk(2, -1)
    return u * _silu(a)


EQUIVALENCES = (
    Equivalence("linear, sums reversed", "linear", F.linear,
                lambda x, w, b: x.flip(-1) @ w.flip(-1).t() + b),
    Equivalence("linear, sums in chunks", "linear", F.linear,
                lambda x, w, b: sum(map(F.linear, x.split(5, -1), w.split(5, -1)), b)),
    Equivalence("linear, tiles of rows", "linear", F.linear,
                lambda x, w, b: torch.cat([F.linear(rows, w, b) for rows in x.split(8)])),
    Equivalence("linear, transposed product", "linear", F.linear,
                lambda x, w, b: (w @ x.t()).t() + b),
    Equivalence("matmul + bias, addmm", "linear", lambda x, w, b: x @ w.t() + b,
                lambda x, w, b: torch.addmm(b, x, w.t())),
    Equivalence("linear, einsum", "linear", F.linear,
                lambda x, w, b: torch.einsum("ni,oi->no", x, w) + b),
    Equivalence("MLP, hidden units reversed", "MLP", _mlp,
                lambda x, w, b, v, c: _mlp(x, w.flip(0), b.flip(0), v.flip(1), c)),
    Equivalence("MLP, written out", "MLP", _mlp,
                lambda x, w, b, v, c: _gelu(x @ w.t() + b) @ v.t() + c),
    Equivalence("GELU, formula", "rowwise", F.gelu, _gelu),
    Equivalence("GELU formula, fused", "rowwise", _gelu, F.gelu),
    Equivalence("GELU (tanh), formula", "rowwise", partial(F.gelu, approximate="tanh"), _gelu_tanh),
    Equivalence("SiLU, formula", "rowwise", F.silu, _silu),
    # By default F.softplus(z) = z from 20 on, 2e-9 off: another function in float64.
    Equivalence("softplus, logaddexp", "rowwise", partial(F.softplus, threshold=40.0),
                in_float32(lambda z: torch.logaddexp(z, torch.zeros_like(z)))),
    Equivalence("softmax, exp / sum", "rowwise", partial(F.softmax, dim=-1), _softmax),
    Equivalence("log softmax, exp and log", "rowwise", partial(F.log_softmax, dim=-1),
                _log_softmax),
    Equivalence("mean, sum / n", "rowwise", lambda x: x.mean(-1),
                lambda x: x.sum(-1) / x.shape[-1]),
    Equivalence("normalize, formula", "rowwise", partial(F.normalize, dim=-1),
                in_float32(lambda x: x * x.square().sum(-1, keepdim=True).rsqrt())),
    Equivalence("cumulative sum, product", "rowwise", lambda x: x.cumsum(-1),
                lambda x: x @ torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype).triu()),
    Equivalence("LayerNorm, written out", "norm", _layer_norm, _layer_norm_written),
    Equivalence("LayerNorm written, fused", "norm", _layer_norm_written, _layer_norm),
    Equivalence("RMSNorm, written out", "norm",
                lambda x, g, b: F.rms_norm(x, x.shape[-1:], g, 1e-5) + b,
                in_float32(lambda x, g, b: x * _rstd(x) * g + b)),
    Equivalence("GroupNorm, written out", "norm", lambda x, g, b: F.group_norm(x, 4, g, b),
                _group_norm_written),
    Equivalence("cross entropy, log softmax", "linear",
                lambda x, w, b: F.cross_entropy(F.linear(x, w, b), _labels(x)),
                _cross_entropy_written),
    Equivalence("attention, written out", "attention", _attention, _attention_written),
    Equivalence("attention written, fused", "attention", _attention_written, _attention),
    Equivalence("causal attention, written out", "attention", partial(_attention, causal=True),
                partial(_attention_written, causal=True)),
    Equivalence("convolution, unfold + product", "convolution", partial(F.conv2d, padding=1),
                _convolution_unfolded),
    Equivalence("strided convolution, unfold", "convolution",
                partial(F.conv2d, padding=1, stride=2), partial(_convolution_unfolded, stride=2)),
    Equivalence("SwiGLU, one product", "SwiGLU", SwiGLU().plain, _swiglu_packed),
    Equivalence("MLP, compiled", "MLP", _mlp, _mlp, compiled=True),
    Equivalence("LayerNorm, compiled", "norm", _layer_norm_written, _layer_norm_written,
                compiled=True),
    Equivalence("SwiGLU, compiled", "SwiGLU", SwiGLU().plain, _swiglu_packed, compiled=True),
)  # fmt: skip
