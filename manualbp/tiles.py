"""A chain of layers in tiles of rows: activations stay in the cache, and only a tile's are there.

    for each tile of rows:   o = f_L(... f_1(x)),   and on the way back, from delta = dC/do,
                             dC/dx,   dC/dW += delta^T h,   dC/db += sum_n delta

Every layer must compute each row by itself. Sums over rows run tile by tile, so they round
otherwise than autograd's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manualbp import backprop, gemm
from manualbp.backprop import Gradients
from manualbp.layers import (
    ActivatedLinear,
    Elementwise,
    FastLinear,
    Layer,
    LayerNorm,
    Linear,
    Needs,
    RMSNorm,
    Theta,
    rows,
)
from manualbp.layers.base import kept
from manualbp.layers.fast import OVER_Z
from manualbp.routines import chosen

# What the widest activation of a tile may take, so that all of them stay in the cache, and the rows
# that products are fast with; as measured.
TILE_BYTES, LEAST_ROWS = 2**21, 512
# glibc's malloc returns memory to the system, to be had back page by page, from twice the largest
# block on that it has seen freed. One such block, never touched, lets it keep all tiles' memory.
HEAP_BYTES = 2**24


def widest(thetas: Sequence[Theta]) -> int:
    """The columns of the widest activation."""
    return max((w.shape[0] for theta in thetas for w in theta[:1] if w is not None), default=0)


def outputs(thetas: Sequence[Theta]) -> int:
    """The columns of o."""
    return next(w.shape[0] for t in reversed(thetas) for w in t[:1] if w is not None)


def tile_rows(count: int, thetas: Sequence[Theta], itemsize: int = 4) -> int:
    """The rows of a tile of ``count``: as many as fit the cache, and none much shorter."""
    longest = max(LEAST_ROWS, TILE_BYTES // (itemsize * max(widest(thetas), 1)))
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


class Step:
    """A layer of a pass over tiles; its gradients add up in ``sums``, None where not wanted."""

    def __init__(self, layer: Layer, theta: Theta, needs: Needs) -> None:
        self.layer, self.theta, self.needs = layer, theta, needs
        self.sums: list[Tensor | None] = [None] * len(theta)

    def forward(self, h: Tensor) -> tuple[Tensor, Any]:
        """a, and what ``backward`` reads."""
        return self.layer.forward(h, self.theta, self.needs)

    def cache(self, h: Tensor) -> Any:
        """What ``backward`` reads, without a where it does not."""
        if self.layer.reads_forward():
            return self.forward(h)[1]
        return self.layer.cache(h, self.theta, self.needs)

    def backward(self, delta: Tensor, cache: Any, over: bool) -> Tensor | None:
        """The delta below; ``over`` allows to write over delta."""
        by = self.layer.backward_over if over else self.layer.backward
        below, *theta = by(delta, cache, self.needs)
        for i, gradient in enumerate(theta):
            self.add(i, gradient)
        return below

    def add(self, i: int, gradient: Tensor | None) -> None:
        """To the sum; that of vectors is kept in float64.

        Autograd sums a vector in one go, and thus better than one tile after the other.
        """
        total = self.sums[i]
        if gradient is None or total is None:
            self.sums[i] = gradient if total is None else total
        elif total.dim() == 1 and total.dtype is not torch.float64:
            self.sums[i] = total.double().add_(gradient)
        else:
            total.add_(gradient)


class LinearStep(Step):
    """a = f(h W^T + b) by products whose routines are chosen once, with the first tile.

    delta <- delta * f',  dC/dW += delta^T h,  dC/db += sum_n delta,  dC/dh = delta W.
    """

    def __init__(self, layer: FastLinear, theta: Theta, needs: Needs) -> None:
        super().__init__(layer, theta, needs)
        self.f = layer.activation
        self.name = "none" if self.f is None else OVER_Z[type(self.f)]
        self.routines: dict[str, str] = {}

    def forward(self, h: Tensor) -> tuple[Tensor, Any]:
        weight, bias = kept(self.theta[0]), self.theta[1]
        routine = self._routine(gemm.forward_product(self.name), h, weight)
        a = gemm.linear(h, weight, bias, self.name, routine)
        return a, (h, a)

    def cache(self, h: Tensor) -> Any:
        return (h, None) if self.f is None else self.forward(h)[1]

    def backward(self, delta: Tensor, cache: Any, over: bool) -> Tensor | None:
        (h, a), weight = cache, kept(self.theta[0])
        if self.f is not None:
            delta = self.f.backward(delta, a, delta if over else None)
        if self.needs.theta[0]:
            routine = self._routine("weight gradient", delta, h)
            self.sums[0] = gemm.weight_gradient(delta, h, self.sums[0], routine)
        if self.needs.theta[1]:
            self.add(1, delta.sum(0))
        if not self.needs.h:
            return None
        return gemm.input_gradient(delta, weight, self._routine("input gradient", delta, weight))

    def _routine(self, product: str, x: Tensor, y: Any) -> str:
        found = self.routines.get(product)
        if found is None:
            found = self.routines[product] = chosen(product, x, y)
        return found


class Pass:
    """One pass over the tiles of a batch: every layer's step, and the sums of the gradients."""

    def __init__(
        self, layers: Sequence[Layer], thetas: Sequence[Theta], needs: Sequence[Needs]
    ) -> None:
        self.steps: list[Step] = []
        self.own: list[Step] = []  # one for each layer
        for layer, theta, need in zip(layers, thetas, needs, strict=True):
            if isinstance(layer, ActivatedLinear):  # a tile's activations are not computed twice
                self.steps.append(Step(Elementwise(layer.before), (), Needs(need.h)))
            kind = LinearStep if isinstance(layer, FastLinear) else Step
            self.steps.append(kind(layer, theta, need))  # type: ignore[arg-type]
            self.own.append(self.steps[-1])
        self.trains = any(needs)
        np.empty(HEAP_BYTES, np.uint8)

    def output(self, h: Tensor) -> Tensor:
        """o, with nothing kept."""
        for step in self.steps:
            h = step.forward(h)[0]
        return h

    def forward(self, h: Tensor) -> tuple[Tensor, list[Any]]:
        """o, and what every step's backward reads."""
        caches = []
        for step in self.steps:
            h, cache = step.forward(h)
            caches.append(cache)
        return h, caches

    def caches(self, h: Tensor) -> list[Any]:
        """The latter alone."""
        caches = []
        for step in self.steps[:-1]:
            h, cache = step.forward(h)
            caches.append(cache)
        return [*caches, self.steps[-1].cache(h)]

    def backward(self, delta: Tensor, caches: list[Any], over: bool) -> Tensor | None:
        """dC/dx from delta = dC/do, which it may write ``over``."""
        below: Tensor | None = delta
        for step in reversed(self.steps):
            cache = caches.pop()
            if below is None or not step.needs:
                return None
            below = step.backward(below, cache, over)
            over = True
        return below

    def gradients(self, dtype: torch.dtype) -> list[Theta]:
        """Every dC/dtheta, in the dtype of the parameters."""
        return [tuple([None if g is None else g.to(dtype) for g in step.sums]) for step in self.own]


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
