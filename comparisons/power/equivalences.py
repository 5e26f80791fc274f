"""Two ways to compute the same, both right: other sums, fused kernels, compiled code.

A kind is a reference, a candidate and the shapes of what they take. ``x`` is what a scale
multiplies; everything after it is a parameter, of size 1 / sqrt(its last dimension).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comparisons.power.operations.layers import normal_cdf

Shapes = Callable[[int], tuple[tuple[int, ...], ...]]  # of x and the parameters, by rows
Function = Callable[..., Tensor]


def in_float32(function: Function) -> Function:
    """The function as a kernel computes it: 16-bit numbers go in and out, float32 is between."""

    @functools.wraps(function)
    def wide(*tensors: Tensor) -> Tensor:
        dtype = tensors[0].dtype
        if dtype.itemsize > 2:
            return function(*tensors)
        return function(*(t.float() for t in tensors)).to(dtype)

    return wide


class Kind(NamedTuple):
    """A name, the shapes for a number of rows, and the two ways."""

    name: str
    shapes: Shapes
    reference: Function
    candidate: Function


def _linear_shapes(rows: int) -> tuple[tuple[int, ...], ...]:
    return (rows, 19), (11, 19), (11,)


def _mlp_shapes(rows: int) -> tuple[tuple[int, ...], ...]:
    return (rows, 9), (13, 9), (13,), (5, 13), (5,)


def _rowwise_shapes(rows: int) -> tuple[tuple[int, ...], ...]:
    return ((rows, 23),)


def _norm_shapes(rows: int) -> tuple[tuple[int, ...], ...]:
    return (rows, 24), (24,), (24,)


def _attention_shapes(rows: int) -> tuple[tuple[int, ...], ...]:
    return (1, rows, 8), (8, 8), (8, 8), (8, 8)


def _convolution_shapes(rows: int) -> tuple[tuple[int, ...], ...]:
    return (2, 4, 7, rows // 4 + 2), (6, 4, 3, 3), (6,)


def _reversed_sums(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x.flip(-1) @ w.flip(-1).t() + b


def _chunked_sums(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    for part in range(0, x.shape[-1], 5):
        b = b + x[..., part : part + 5] @ w[:, part : part + 5].t()
    return b


def _row_tiles(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.cat([F.linear(x[i : i + 8], w, b) for i in range(0, len(x), 8)])


def _transposed_product(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (w @ x.t()).t() + b


def _mlp(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w, b)), v, c)


def _mlp_permuted(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    """Hidden units in the other order."""
    return F.linear(F.gelu(F.linear(x, w.flip(0), b.flip(0))), v.flip(1), c)


def _mlp_written(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return _gelu(x @ w.t() + b) @ v.t() + c


@in_float32
def _gelu(z: Tensor) -> Tensor:
    return z * normal_cdf(z)


@in_float32
def _gelu_tanh(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))


@in_float32
def _softplus(z: Tensor) -> Tensor:
    return torch.logaddexp(z, torch.zeros_like(z))


@in_float32
def _softmax(z: Tensor) -> Tensor:
    e = torch.exp(z - z.amax(-1, keepdim=True).detach())
    return e / e.sum(-1, keepdim=True)


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], gamma, beta)


@in_float32
def _log_softmax(z: Tensor) -> Tensor:
    z = z - z.amax(-1, keepdim=True).detach()
    return z - z.exp().sum(-1, keepdim=True).log()


@in_float32
def _silu(z: Tensor) -> Tensor:
    return z * z.sigmoid()


@in_float32
def _normalize(x: Tensor) -> Tensor:
    return x * x.square().sum(-1, keepdim=True).rsqrt()


@in_float32
def _layer_norm_written(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * gamma + beta


def _rms_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], gamma, 1e-5) + beta


@in_float32
def _rms_norm_written(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * gamma + beta


def _group_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.group_norm(x, 4, gamma, beta)


@in_float32
def _group_norm_written(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    ones = torch.ones(6, dtype=x.dtype)
    return _layer_norm_written(x.reshape(-1, 4, 6), ones, 0 * ones).flatten(1) * gamma + beta


def _cross_entropy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, w, b), _labels(x))


def _cross_entropy_written(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    z = F.linear(x, w, b)
    return -F.log_softmax(z, -1).gather(-1, _labels(x).unsqueeze(-1)).sum() / len(z)


def _labels(x: Tensor) -> Tensor:
    """The same in every arm and dtype."""
    return torch.arange(len(x)) * 7 % 11


def _projected(x: Tensor, *weights: Tensor) -> list[Tensor]:
    return [(x @ w.t()).reshape(*x.shape[:2], 2, 4).transpose(1, 2) for w in weights]


def _attention(x: Tensor, *weights: Tensor, causal: bool = False) -> Tensor:
    q, k, v = _projected(x, *weights)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _attention_written(x: Tensor, *weights: Tensor, causal: bool = False) -> Tensor:
    q, k, v = _projected(x, *weights)
    scores = q @ k.mT / 2
    if causal:
        masked = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(masked, -math.inf)
    return scores.softmax(-1) @ v


def _convolution(x: Tensor, w: Tensor, b: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, w, b, stride=stride, padding=1)


def _convolution_unfolded(x: Tensor, w: Tensor, b: Tensor, stride: int = 1) -> Tensor:
    height, width = ((n - 1) // stride + 1 for n in x.shape[2:])
    columns = F.unfold(x, 3, padding=1, stride=stride)
    return (w.flatten(1) @ columns + b.unsqueeze(-1)).reshape(len(x), len(w), height, width)


def _cumulative_sum(x: Tensor) -> Tensor:
    return x @ torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype).triu()


def _swiglu(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(F.linear(x, gate)) * F.linear(x, up)


def _swiglu_packed(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """One product for both, and silu by its formula."""
    a, u = F.linear(x, torch.cat([gate, up])).chunk(2, -1)
    return u * _silu(a)


def _addmm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(b, x, w.t())


def _einsum(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("ni,oi->no", x, w) + b


KINDS: tuple[Kind, ...] = (
    Kind("linear, sums reversed", _linear_shapes, F.linear, _reversed_sums),
    Kind("linear, sums in chunks", _linear_shapes, F.linear, _chunked_sums),
    Kind("linear, tiles of rows", _linear_shapes, F.linear, _row_tiles),
    Kind("linear, transposed product", _linear_shapes, F.linear, _transposed_product),
    Kind("matmul + bias, addmm", _linear_shapes, lambda x, w, b: x @ w.t() + b, _addmm),
    Kind("linear, einsum", _linear_shapes, F.linear, _einsum),
    Kind("MLP, hidden units reversed", _mlp_shapes, _mlp, _mlp_permuted),
    Kind("MLP, written out", _mlp_shapes, _mlp, _mlp_written),
    Kind("GELU, formula", _rowwise_shapes, F.gelu, _gelu),
    Kind("GELU formula, fused", _rowwise_shapes, _gelu, F.gelu),
    Kind("GELU (tanh), formula", _rowwise_shapes, partial(F.gelu, approximate="tanh"), _gelu_tanh),
    Kind("SiLU, formula", _rowwise_shapes, F.silu, _silu),
    # By default F.softplus(z) = z from 20 on, 2e-9 off: another function in float64.
    Kind("softplus, logaddexp", _rowwise_shapes, partial(F.softplus, threshold=40.0), _softplus),
    Kind("softmax, exp / sum", _rowwise_shapes, partial(F.softmax, dim=-1), _softmax),
    Kind("log softmax, exp and log", _rowwise_shapes, partial(F.log_softmax, dim=-1), _log_softmax),
    Kind("mean, sum / n", _rowwise_shapes, lambda x: x.mean(-1), lambda x: x.sum(-1) / x.shape[-1]),
    Kind("normalize, formula", _rowwise_shapes, partial(F.normalize, dim=-1), _normalize),
    Kind("cumulative sum, product", _rowwise_shapes, lambda x: x.cumsum(-1), _cumulative_sum),
    Kind("LayerNorm, written out", _norm_shapes, _layer_norm, _layer_norm_written),
    Kind("LayerNorm written, fused", _norm_shapes, _layer_norm_written, _layer_norm),
    Kind("RMSNorm, written out", _norm_shapes, _rms_norm, _rms_norm_written),
    Kind("GroupNorm, written out", _norm_shapes, _group_norm, _group_norm_written),
    Kind("cross entropy, log softmax", _linear_shapes, _cross_entropy, _cross_entropy_written),
    Kind("attention, written out", _attention_shapes, _attention, _attention_written),
    Kind("attention written, fused", _attention_shapes, _attention_written, _attention),
    Kind("causal attention, written out", _attention_shapes, partial(_attention, causal=True),
         partial(_attention_written, causal=True)),
    Kind("convolution, unfold + product", _convolution_shapes, _convolution, _convolution_unfolded),
    Kind("strided convolution, unfold", _convolution_shapes, partial(_convolution, stride=2),
         partial(_convolution_unfolded, stride=2)),
    Kind("SwiGLU, one product", lambda n: ((n, 9), (7, 9), (7, 9)), _swiglu, _swiglu_packed),
)  # fmt: skip
COMPILED = (
    Kind("MLP, compiled", _mlp_shapes, _mlp, _mlp),
    Kind("LayerNorm, compiled", _norm_shapes, _layer_norm_written, _layer_norm_written),
    Kind("SwiGLU, compiled", lambda n: ((n, 9), (7, 9), (7, 9)), _swiglu, _swiglu_packed),
)


class Functional(nn.Module):
    """A function of x and its own parameters."""

    def __init__(self, function: Function, parameters: list[Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(p.clone()) for p in parameters])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)
