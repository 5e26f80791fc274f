"""The recursion of backprop.py for GPUs: a Linear and the activation next to it in one step.

    up     a_l = f(a_{l-1} W_l^T + b_l)                 the Linear with the activation behind it
    down   delta_{l-1} = (delta_l W_l) * f'_{l-1}       the Linear with the activation before it
           dC/db_{l-1} = sum_n delta_{l-1}              while delta_{l-1} is there

Here delta_l is dC/dz_l. Caches are those of backprop.py, so either goes down from what either has
kept. gemm.py says what runs each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manualbp.fast.cpu import products as gemm
from manualbp.maths import backprop
from manualbp.maths.activations import Activation
from manualbp.maths.backprop import Gradients
from manualbp.maths.layers import (
    Cache,
    Elementwise,
    Layer,
    Linear,
    Needs,
    Theta,
    alone,
    own,
    rows,
    total,
)
from manualbp.maths.layers.base import kept


def forward(
    x: Tensor, layers: Sequence[Layer], thetas: Sequence[Theta], needs: Sequence[Needs]
) -> tuple[Tensor, list[Cache]]:
    """o and the cache of every layer, as ``backprop.forward``."""
    caches: list[Cache] = []
    while (i := len(caches)) < len(layers):
        f = _activation(layers, i + 1) if type(layers[i]) is Linear else None
        if f is None:
            x, cache = layers[i].forward(x, thetas[i], needs[i])
            caches.append(cache)
            continue
        h, (weight, bias), wanted = x, thetas[i], needs[i + 1].h
        by_z = f.needs == "z"
        x, z = gemm.activated(rows(h), kept(weight), bias, f, keep=wanted and by_z)
        if h.dim() != 2:
            shape = (*h.shape[:-1], x.shape[1])
            x, z = own(x.view(shape)), None if z is None else own(z.view(shape))
        caches.append(layers[i].cache(h, thetas[i], needs[i]))
        caches.append(Cache(h=z) if by_z else Cache(a=x if wanted else None))
    return x, caches


def backward(
    injected: Sequence[Tensor | None],
    layers: Sequence[Layer],
    caches: list[Cache],
    needs: Sequence[Needs],
) -> Gradients:
    """dC/dx and every dC/dtheta, as ``backprop.backward``."""
    given = [delta for delta in injected if delta is not None]
    if not all(map(alone, given)) or _autocast(given):
        return backprop.backward(injected, layers, caches, needs)
    thetas: list[Theta] = [(None,) * len(need.theta) for need in needs]
    delta: Tensor | None = None
    sums: Tensor | None = None  # of delta over the rows, where they are known
    i = len(layers) - 1
    while i >= 0 and needs[i]:
        if injected[i] is not None:
            delta, sums = total(delta, injected[i]), None
        if delta is None:
            i -= 1
            continue
        f = _activation(layers, i - 1) if type(layers[i]) is Linear else None
        cache, caches[i] = caches[i], Cache()
        if f is None or not needs[i].h or injected[i - 1] is not None:
            delta, thetas[i] = _single(layers[i], delta, sums, cache, needs[i])
            sums, i = None, i - 1
            continue
        below, caches[i - 1] = caches[i - 1], Cache()
        next_bias = i > 1 and type(layers[i - 2]) is Linear and injected[i - 2] is None
        thetas[i] = _of_parameters(delta, sums, cache, needs[i])
        summed = next_bias and needs[i - 2].theta[1]
        delta, sums = _through(delta, kept(cache.extra[0]), f, below, summed)
        i -= 2
    return Gradients(delta if i < 0 else None, thetas, [])


def _single(
    layer: Layer, delta: Tensor, sums: Tensor | None, cache: Cache, needs: Needs
) -> tuple[Tensor | None, Theta]:
    """A layer without a partner; ``sums`` is its bias's gradient, if known."""
    if sums is None:
        below, *theta = layer.backward(delta, cache, needs)
        return below, tuple(theta)
    below, weight, _ = layer.backward(delta, cache, Needs(needs.h, (needs.theta[0], False)))
    return below, (weight, sums)


def _of_parameters(delta: Tensor, sums: Tensor | None, cache: Cache, needs: Needs) -> Theta:
    """dC/dW = delta^T h,  dC/db = sum_n delta."""
    g = rows(delta)
    weight = gemm.weight_gradient(g, rows(kept(cache.h))) if needs.theta[0] else None
    return weight, (g.sum(0) if sums is None else sums) if needs.theta[1] else None


def _through(
    delta: Tensor, weight: Tensor, f: Activation, cache: Cache, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """delta_{l-1} = (delta_l W_l) * f'_{l-1}, and where asked for its sum over the rows."""
    read = kept(cache.h if cache.a is None else cache.a)
    below, sums = gemm.activated_input_gradient(rows(delta), weight, f, rows(read), summed)
    return below if read.dim() == 2 else below.view(read.shape), sums


def _activation(layers: Sequence[Layer], i: int) -> Activation | None:
    """Of the layer there, where it is nothing but one."""
    layer = layers[i] if 0 <= i < len(layers) else None
    return layer.activation if isinstance(layer, Elementwise) else None


def _autocast(tensors: Sequence[Tensor]) -> bool:
    return any(torch.is_autocast_enabled(t.device.type) for t in tensors)
