"""The layers of one pass over tiles of rows: their products chosen once, their gradients added up.

for each tile:   o = f_L(... f_1(x)),   delta_{l-1} from delta_l,   dC/dtheta_l += the tile's
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manualbp.fast.cpu import products as gemm
from manualbp.fast.cpu.layers import ActivatedLinear, FastLinear
from manualbp.fast.cpu.products import NAMES
from manualbp.fast.cpu.routines import chosen
from manualbp.fast.gpu import pairs
from manualbp.maths.backprop import nothing
from manualbp.maths.layers import Elementwise, Layer, Needs, Theta
from manualbp.maths.layers.base import kept

# glibc's malloc returns memory to the system, to be had back page by page, from twice the largest
# block on that it has seen freed. One such block, never touched, lets it keep all tiles' memory.
HEAP_BYTES = 2**24


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
        self.name = "none" if self.f is None else NAMES[type(self.f)]
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


class PairedPass(Pass):
    """By the recursion of pairs.py, for GPUs."""

    def output(self, h: Tensor) -> Tensor:
        return pairs.forward(h, *self._chain, nothing(self._chain[1]))[0]

    def forward(self, h: Tensor) -> tuple[Tensor, list[Any]]:
        return pairs.forward(h, *self._chain, self._needs)

    def backward(self, delta: Tensor, caches: list[Any], over: bool) -> Tensor | None:
        injected = [*[None] * (len(self.own) - 1), delta]
        found = pairs.backward(injected, self._chain[0], caches, self._needs)
        for step, theta in zip(self.own, found.thetas, strict=True):
            for i, gradient in enumerate(theta):
                step.add(i, gradient)
        return found.input

    @property
    def _chain(self) -> tuple[list[Layer], list[Theta]]:
        return [step.layer for step in self.own], [step.theta for step in self.own]

    @property
    def _needs(self) -> list[Needs]:
        return [step.needs for step in self.own]
