"""A chain of layers in tiles of rows: activations stay in the cache, and only a tile's are there.

    for each tile of rows:   o = f_L(... f_1(x)),   and on the way back, from delta = dC/do,
                             dC/dx,   dC/dW += delta^T h,   dC/db += sum_n delta

Every layer must compute each row by itself. Sums over rows run tile by tile, so they round
otherwise than autograd's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manualbp.fast.cpu.steps import Pass
from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients
from manualbp.maths.layers import Elementwise, Layer, LayerNorm, Linear, Needs, RMSNorm, Theta, rows

# What the widest activation of a tile may take, so that all of them stay in the cache; the rows
# that products are fast with, and those from which they get no faster. As measured.
TILE_BYTES, LEAST_ROWS, MOST_ROWS = 2**21, 512, 8192
# The same for GPUs, where a tile has to keep all multiprocessors busy. Not yet measured.
TILE_BYTES_CUDA, MOST_ROWS_CUDA = 2**26, 2**18


def widest(thetas: Sequence[Theta]) -> int:
    """The columns of the widest activation."""
    return max((w.shape[0] for theta in thetas for w in theta[:1] if w is not None), default=0)


def outputs(thetas: Sequence[Theta]) -> int:
    """The columns of o."""
    return next(w.shape[0] for t in reversed(thetas) for w in t[:1] if w is not None)


def tile_rows(count: int, thetas: Sequence[Theta], itemsize: int = 4, cuda: bool = False) -> int:
    """The rows of a tile of ``count``: as many as fit the cache, and none much shorter."""
    size, most = (TILE_BYTES_CUDA, MOST_ROWS_CUDA) if cuda else (TILE_BYTES, MOST_ROWS)
    fitting = size // (itemsize * max(widest(thetas), 1))
    longest = min(max(LEAST_ROWS, fitting), most)
    return max(-(-count // max(-(-count // longest), 1)), 1)


def rowwise(layers: Sequence[Layer]) -> bool:
    """Whether the rows of (N, I) do not depend on each other, and nothing but x says what o is."""
    return all(
        isinstance(layer, (Linear, Elementwise))
        or (isinstance(layer, (LayerNorm, RMSNorm)) and len(layer.shape) == 1)
        for layer in layers
    )


def slices(count: int, tile: int) -> list[slice]:
    """The tiles of ``count`` rows."""
    return [slice(start, start + tile) for start in range(0, count, tile)]


def forward(
    x: Tensor, skip: Tensor | None, layers: Sequence[Layer], thetas: Sequence[Theta], tile: int
) -> Tensor:
    """o, or skip + o; x (..., I) with at least one row."""
    run = Pass(layers, thetas, backprop.nothing(thetas))
    o = x.new_empty(*x.shape[:-1], outputs(thetas))
    flat, flat_skip, flat_o = rows(x), None if skip is None else rows(skip), rows(o)
    for part in slices(len(flat), tile):
        found = run.output(flat[part])
        flat_o[part] = found if flat_skip is None else flat_skip[part] + found
    return o


def backward(
    x: Tensor, delta: Tensor, layers: Sequence[Layer], thetas: Sequence[Theta],
    needs: Sequence[Needs], tile: int,
) -> Gradients:  # fmt: skip
    """dC/dx and every dC/dtheta, from delta = dC/do; the activations are computed once more."""
    run = Pass(layers, thetas, needs)
    flat, flat_delta = rows(x), rows(delta)
    grad_x = x.new_empty(x.shape) if needs[0].h else None
    for part in slices(len(flat), tile):
        below = run.backward(flat_delta[part], run.caches(flat[part]), over=False)
        if grad_x is not None and below is not None:
            rows(grad_x)[part] = below
    return Gradients(grad_x, run.gradients(x.dtype), [])
