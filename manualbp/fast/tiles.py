"""A chain of layers in tiles of rows: activations stay in the cache; those of one tile are kept.

    for each tile of rows:   o = f_L(... f_1(x)),   and on the way back, from delta = dC/do,
                             dC/dx,   dC/dW += delta^T h,   dC/db += sum_n delta

Every layer must compute each row by itself. Sums over rows are added tile by tile, so they round
differently from autograd's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.autograd.segment import Segment
from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients, Step
from manualbp.maths.layers import Theta, rows

# The most bytes of a tile's widest activation, so that all of them stay in the cache; the least
# rows for fast products; the rows above which products get no faster.
TILE_BYTES, LEAST_ROWS, MOST_ROWS = 2**21, 512, 8192
# The same for GPUs, where a tile has to keep all multiprocessors busy. Not yet measured.
TILE_BYTES_CUDA, MOST_ROWS_CUDA = 2**26, 2**18

# With full memory, tiles run chains that are at most WIDEST wide, where it takes little time to
# compute an activation twice, and whose activations are large: malloc takes one of FRESH_BYTES from
# the system each time, and one of LARGE_BYTES does not fit the cache. LARGE_BYTES counts only for
# float32, and only where x wants no gradient, which could be differentiated again.
WIDEST, FRESH_BYTES, LARGE_BYTES = 256, 2**25, 2**23


def widths(thetas: Sequence[Theta]) -> list[int]:
    """The columns of the output of every matrix product, in order."""
    return [w.shape[0] for theta in thetas for w in theta[:1] if w is not None and w.dim() == 2]


def rows_of_tile(count: int, thetas: Sequence[Theta], itemsize: int = 4, cuda: bool = False) -> int:
    """The rows of a tile of ``count``: as many as fit the cache, and none much shorter."""
    size, most = (TILE_BYTES_CUDA, MOST_ROWS_CUDA) if cuda else (TILE_BYTES, MOST_ROWS)
    fitting = size // (itemsize * max(widths(thetas), default=1))
    longest = min(max(LEAST_ROWS, fitting), most)
    return max(-(-count // max(-(-count // longest), 1)), 1)


def slices(count: int, tile: int) -> list[slice]:
    """The tiles of ``count`` rows."""
    return [slice(start, start + tile) for start in range(0, count, tile)]


class Sums:
    """Every dC/dtheta, added up over the tiles; None where not wanted."""

    def __init__(self) -> None:
        self.totals: list[Tensor | None] = []

    def add(self, grads: Sequence[Tensor | None]) -> None:
        """Add one tile's. Sums of vectors are kept in float64.

        Autograd sums a vector in one go, which rounds better than one tile after the other.
        """
        if not self.totals:
            self.totals = list(grads)
            return
        for i, (total, gradient) in enumerate(zip(self.totals, grads, strict=True)):
            if total is not None and gradient is not None:
                wide = total.double() if total.dim() == 1 else total
                self.totals[i] = wide.add_(gradient)

    def of(self, steps: Sequence[Step], dtype: torch.dtype) -> list[Tensor | None]:
        """The sums in the dtype of the parameters; None for each if there was no tile."""
        totals = self.totals or [None] * sum(len(step.theta) for step in steps)
        return [None if total is None else total.to(dtype) for total in totals]


@dataclass(frozen=True)
class Tiles:
    """Tiles of ``tile`` rows. autograd/recomputed.py runs a chain by them."""

    tile: int

    def forward(self, x: Tensor, skip: Tensor | None, steps: Sequence[Step]) -> Tensor:
        """o, or skip + o; x (..., I) with at least one row."""
        thetas = [step.theta for step in steps]
        o = x.new_empty(*x.shape[:-1], widths(thetas)[-1])
        flat_skip, flat_o = None if skip is None else rows(skip), rows(o)
        for part, h in self._tiles(x):
            found, _ = backprop.forward(h, steps)
            flat_o[part] = found if flat_skip is None else flat_skip[part] + found
        return o

    def backward(self, x: Tensor, delta: Tensor, steps: Sequence[Step]) -> Gradients:
        """dC/dx and every dC/dtheta, from delta = dC/do. Activations are computed again."""
        sums, flat_delta = Sums(), rows(delta)
        grad_x = x.new_empty(x.shape) if steps[0].needs.h else None
        for part, h in self._tiles(x):
            tape = backprop.tape_of(h, steps)
            found = backprop.backward(flat_delta[part], steps, tape, over=True)
            sums.add(found.thetas)
            if grad_x is not None and found.input is not None:
                rows(grad_x)[part] = found.input
        return Gradients(grad_x, sums.of(steps, x.dtype), [])

    def _tiles(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        flat = rows(x)
        return ((part, flat[part]) for part in slices(len(flat), self.tile))


def tiles_for(segment: Segment, x: Tensor, low: bool) -> Tiles | None:
    """Tiles where memory is to be ``low``, or of a long batch; None for the whole batch.

    A sum of many tiles needs the digits of float32 or float64.
    """
    count = x.numel() // max(x.shape[-1], 1) if x.dim() > 1 else 1
    if not (low or _large(x, count, segment.thetas)) or count < 2 * LEAST_ROWS:
        return None
    if not (x.is_cpu and x.dtype in (torch.float32, torch.float64)):
        return None
    if not all(layer.by_rows() for layer in segment.layers):
        return None
    tile = rows_of_tile(count, segment.thetas, x.itemsize)
    return Tiles(tile) if count > tile else None


def _large(x: Tensor, count: int, thetas: Sequence[Theta]) -> bool:
    """Whether tiles win with full memory: several products of few columns, many rows."""
    columns = widths(thetas)
    widest = max(columns, default=0)
    least = LARGE_BYTES if x.dtype is torch.float32 and not x.requires_grad else FRESH_BYTES
    large = count * widest * x.element_size() >= least
    return large and widest <= WIDEST and len(columns) > 1
