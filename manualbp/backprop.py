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

from collections.abc import Sequence
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
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


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


def activation_backward(
    delta: Tensor, activation: Activation, activity: Tensor | None, exact: bool = True
) -> Tensor:
    """dC/dz = dC/da * f'(z), f' from z or a; ``exact`` as in ``backward``."""
    if isinstance(activation, Identity):
        return delta
    cache = _kept(activity)
    return activation.backward(delta, cache) if exact else delta * activation.derivative(cache)


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
        grad_h = grad_h.reshape(cache.shape)
    return grad_weight, grad_bias, grad_h


def forward(x: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, list[Cache]]:
    """o = a_L with a_0 = x,  a_l = f_l(a_{l-1} W_l^T + b_l), and the cache of every layer.

    Args:
        x: (..., I_1).
        layers: weights (O_l, I_l), biases (O_l,) or None; I_{l+1} = O_l.
    """
    caches = []
    for layer in layers:
        x, cache = layer_forward(x, layer)
        caches.append(cache)
    return x, caches


def backward(
    grad_output: Tensor,
    layers: Sequence[Layer],
    caches: Sequence[Cache],
    needs: Needs | None = None,
    *,
    exact: bool = True,
) -> Gradients:
    """delta_L = dC/do * f'(z_L),  delta_l = (delta_{l+1} W_{l+1}) * f'(z_l), and the gradients.

    Args:
        grad_output: dC/do, (..., O_L).
        layers: the layers that ``forward`` ran; only their activations are read.
        caches: what ``forward`` returned.
        needs: the gradients wanted; all of them by default. The loop ends where nothing below
            wants one.
        exact: multiply by f' with autograd's rounding (a fused kernel); False runs the written
            formula ``delta * f'``, which autograd can differentiate again to any order.
    """
    needs = needs or Needs.everything(layers)
    weights: list[Tensor | None] = [None] * len(layers)
    biases: list[Tensor | None] = [None] * len(layers)
    delta: Tensor | None = grad_output
    for i in reversed(range(len(layers))):
        wanted = needs.weights[i], needs.biases[i], needs.upstream(i)
        if delta is None or not any(wanted):
            break
        delta = activation_backward(delta, layers[i].activation, caches[i].activity, exact)
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
