"""Backpropagation through a chain of layers, as plain functions on tensors.

    forward     z = h W^T + b            a = f(z)
    BP1, BP2    delta = dC/da * f'(z)    (dC/dz of this layer)
    BP4         dC/dW = delta^T h
    BP3         dC/db = sum_n delta
    and on      dC/dh = delta W          (dC/da of the layer below)

N batch, I in-features, O out-features.
h (..., I) input of a layer      W (O, I)    b (O,)    z, a, delta (..., O)
Any leading shape stands for the batch; the products run on (N, I) and (N, O).

Source: the article's recursion over layers; Nielsen ch. 2, BP1-BP4. Device- and dtype-agnostic;
nothing here is differentiated by autograd, and nothing prevents autograd from recording it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Size, Tensor

from manualbp.activations import Activation, Identity


class Layer(NamedTuple):
    """a = f(h W^T + b)."""

    weight: Tensor
    bias: Tensor | None
    activation: Activation


class Cache(NamedTuple):
    """What the backward pass of one layer reads. A tensor that nobody will read may be None."""

    h: Tensor | None
    weight: Tensor | None
    activity: Tensor | None  # z or a, as the activation needs
    shape: Size  # of h
    h_column_major: bool
    weight_row_major: bool


class Needs(NamedTuple):
    """Which gradients are wanted: of the input, and of every layer's weight and bias."""

    input: bool
    weights: tuple[bool, ...]
    biases: tuple[bool, ...]

    @staticmethod
    def everything(layers: Sequence[Layer]) -> Needs:
        """Every gradient there is."""
        return Needs(True, (True,) * len(layers), tuple(ly.bias is not None for ly in layers))

    @property
    def first(self) -> int:
        """The first layer at which a gradient is wanted; what lies below it is a constant."""
        layers = enumerate(zip(self.weights, self.biases, strict=True))
        return 0 if self.input else next((i for i, wanted in layers if any(wanted)), 0)

    def upstream(self, index: int) -> bool:
        """Whether anything below layer ``index`` wants a gradient, so that dC/dh must be had."""
        return self.input or any(self.weights[:index]) or any(self.biases[:index])


class Gradients(NamedTuple):
    """dC/dx and every dC/dW, dC/db; None where not wanted."""

    input: Tensor | None
    weights: list[Tensor | None]
    biases: list[Tensor | None]


def rows(x: Tensor) -> Tensor:
    """(..., I) as (N, I)."""
    if x.dim() == 2:
        return x
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 is ambiguous for no rows


def layer_forward(h: Tensor, layer: Layer) -> tuple[Tensor, Cache]:
    """a = f(z), z = h W^T + b."""
    weight, bias, activation = layer
    z = F.linear(h, weight, bias)
    a = activation.f(z)
    flat = rows(h)
    cache = Cache(
        h,
        weight,
        _activity(activation, z, a),
        h.shape,
        flat.stride(0) == 1 and flat.stride(1) == flat.size(0),
        weight.stride(1) == 1 and weight.stride(0) == weight.size(1),
    )
    return a, cache


Through = Callable[[Activation, Tensor, Tensor], Tensor]


def kernel(activation: Activation, delta: Tensor, cache: Tensor) -> Tensor:
    """delta * f', rounded as autograd rounds it."""
    return activation.backward(delta, cache)


def formula(activation: Activation, delta: Tensor, cache: Tensor) -> Tensor:
    """delta * f', as it is written."""
    return activation.formula(delta, cache)


def activation_backward(
    delta: Tensor, activation: Activation, activity: Tensor | None, through: Through = kernel
) -> Tensor:
    """dC/dz = dC/da * f'(z), f' from z or a."""
    if isinstance(activation, Identity):
        return delta
    return through(activation, delta, _kept(activity))


def layer_backward(
    delta: Tensor, cache: Cache, *, weight: bool, bias: bool, input: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W.

    Each product has two equal spellings, P and (P^T)^T. Autograd picks by the memory layout of
    the factor whose gradient it takes, and the two round differently: so do we pick.
    """
    grad_weight = grad_bias = grad_h = None
    g = rows(delta)
    if weight:
        h = rows(_kept(cache.h))
        grad_weight = g.t().mm(h) if cache.weight_row_major else h.t().mm(g).t()
    if bias:
        grad_bias = g.sum(0)
    if input:
        w = _kept(cache.weight)
        grad_h = w.t().mm(g.t()).t() if cache.h_column_major else g.mm(w)
        grad_h = grad_h if len(cache.shape) == 2 else grad_h.reshape(cache.shape)
    return grad_weight, grad_bias, grad_h


def forward(
    x: Tensor, layers: Sequence[Layer], needs: Needs | None = None
) -> tuple[Tensor, list[Cache]]:
    """o = a_L with a_0 = x,  a_l = f_l(a_{l-1} W_l^T + b_l), and the cache of every layer.

    Args:
        x: (..., I_1).
        layers: weights (O_l, I_l), biases (O_l,) or None; I_{l+1} = O_l.
        needs: the gradients that will be wanted; all of them by default. What none of them reads
            is not kept.
    """
    needs = needs or Needs.everything(layers)
    first, caches = needs.first, []
    for i, layer in enumerate(layers):
        x, cache = layer_forward(x, layer)
        caches.append(
            cache._replace(
                h=cache.h if needs.weights[i] or i == first else None,
                weight=cache.weight if needs.upstream(i) else None,
                activity=cache.activity if i >= first else None,
            )
        )
    return x, caches


def backward(
    grad_output: Tensor,
    layers: Sequence[Layer],
    caches: Sequence[Cache],
    needs: Needs | None = None,
    through: Through = kernel,
) -> Gradients:
    """delta_L = dC/do * f'(z_L),  delta_l = (delta_{l+1} W_{l+1}) * f'(z_l), and the gradients.

    Args:
        grad_output: dC/do, (..., O_L).
        layers: the layers that ``forward`` ran; only their activations are read.
        caches: what ``forward`` returned.
        needs: the gradients wanted; all of them by default. The loop ends where nothing below
            wants one.
        through: how delta is multiplied by f': ``kernel`` rounds like autograd, ``formula`` runs
            the written expression.
    """
    needs = needs or Needs.everything(layers)
    weights: list[Tensor | None] = [None] * len(layers)
    biases: list[Tensor | None] = [None] * len(layers)
    delta: Tensor | None = grad_output
    for i in reversed(range(len(layers))):
        wanted = needs.weights[i], needs.biases[i], needs.upstream(i)
        if delta is None or not any(wanted):
            break
        delta = activation_backward(delta, layers[i].activation, caches[i].activity, through)
        weights[i], biases[i], delta = layer_backward(
            delta, caches[i], weight=wanted[0], bias=wanted[1], input=wanted[2]
        )
    return Gradients(delta if needs.input else None, weights, biases)


def _activity(activation: Activation, z: Tensor, a: Tensor) -> Tensor | None:
    """What f' is computed from; the identity's f' = 1 needs nothing."""
    if isinstance(activation, Identity):
        return None
    return a if activation.needs == "a" else z


def _kept(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("cache holds None where a tensor is needed; run forward again to fill it")
    return tensor
