"""A chain of layers in tiles of rows: activations stay in the cache, and only a tile's are there.

    for each tile of rows:   o = f_L(... f_1(x)),   and on the way back the same once more,
                             dC/dx,   dC/dW += delta^T h,   dC/db += sum_n delta

Every layer must compute each row by itself. Sums over rows run tile by tile, so they round
otherwise than autograd's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manualbp import backprop
from manualbp.backprop import Gradients
from manualbp.layers import (
    ActivatedLinear,
    Elementwise,
    Layer,
    LayerNorm,
    Linear,
    Needs,
    RMSNorm,
    Theta,
    rows,
)

# What a tile's activations may take, and the rows that products need to be fast, as measured.
CACHE_BYTES, LEAST_ROWS = 2**23, 2048


def tile_rows(inputs: int, thetas: Sequence[Theta]) -> int:
    """How many rows' activations fit the cache, as a power of two, and at least LEAST_ROWS."""
    widths = inputs + sum(theta[0].shape[0] for theta in thetas if theta and theta[0] is not None)
    fitting = CACHE_BYTES // (4 * widths)
    return max(LEAST_ROWS, 2 ** max(fitting.bit_length() - 1, 0))


def rowwise(layers: Sequence[Layer]) -> bool:
    """Whether the rows of (N, I) do not depend on each other, and nothing but x says what o is."""
    return all(
        isinstance(layer, (Linear, Elementwise))
        or (isinstance(layer, (LayerNorm, RMSNorm)) and len(layer.shape) == 1)
        for layer in layers
    )


def keeping(layers: Sequence[Layer]) -> list[Layer]:
    """The chain for a tile, whose activations take little memory, and are not computed twice."""
    return [replace(a, keeps=True) if isinstance(a, ActivatedLinear) else a for a in layers]


def slices(count: int, tile: int) -> list[slice]:
    """The tiles of ``count`` rows."""
    return [slice(start, start + tile) for start in range(0, count, tile)]


def forward(
    x: Tensor, skip: Tensor | None, layers: Sequence[Layer], thetas: Sequence[Theta], tile: int
) -> Tensor:
    """o, or skip + o; x (..., I) with at least one row."""
    needs = backprop.nothing(thetas)
    flat, flat_skip = rows(x), None if skip is None else rows(skip)
    o = flat_o = x.new_empty(0)
    for part in slices(len(flat), tile):
        found, _ = backprop.forward(flat[part], layers, thetas, needs)
        if part.start == 0:
            o = x.new_empty(*x.shape[:-1], found.shape[1])
            flat_o = rows(o)
        flat_o[part] = found if flat_skip is None else flat_skip[part] + found
    return o


def backward(
    x: Tensor, delta: Tensor, layers: Sequence[Layer], thetas: Sequence[Theta],
    needs: Sequence[Needs], tile: int,
) -> Gradients:  # fmt: skip
    """dC/dx and every dC/dtheta, from delta = dC/do; the activations are computed once more."""
    layers = keeping(layers)
    flat, flat_delta = rows(x), rows(delta)
    grad_x = x.new_empty(x.shape) if needs[0].h else None
    sums = Sums(thetas)
    for part in slices(len(flat), tile):
        caches = backprop.caches_of(flat[part], layers, thetas, needs)
        injected = [None] * (len(layers) - 1) + [flat_delta[part]]
        found = backprop.backward(injected, layers, caches, needs)
        sums.add(found.thetas)
        if grad_x is not None and found.input is not None:
            rows(grad_x)[part] = found.input
    return Gradients(grad_x, sums.rounded(x.dtype), [])


class Sums:
    """Of every dC/dtheta over the tiles; of vectors in float64.

    Autograd sums a vector in one go, and thus better than one tile after the other.
    """

    def __init__(self, thetas: Sequence[Theta]) -> None:
        self.found: list[list[Tensor | None]] = [[None] * len(theta) for theta in thetas]

    def add(self, thetas: Sequence[Theta]) -> None:
        """One tile's; None where not wanted."""
        for sums, theta in zip(self.found, thetas, strict=True):
            for i, gradient in enumerate(theta):
                sums[i] = _added(sums[i], gradient)

    def rounded(self, dtype: torch.dtype) -> list[Theta]:
        """In the dtype of the parameters."""
        return [tuple([None if g is None else g.to(dtype) for g in sums]) for sums in self.found]


def _added(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return total
    if total is None:
        return gradient.double() if gradient.dim() == 1 else gradient
    return total.add_(gradient)
