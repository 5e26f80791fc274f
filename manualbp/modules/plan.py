"""Which consecutive modules make one chain by hand, and the call that runs them.

``call`` is what Sequential and the converted blocks share: the modules in order, every stretch of
known ones through one hand-written Function, every other module as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.autograd.recomputed import run_chain
from manualbp.autograd.torch_internals import (
    alike,
    distributed,
    plain_calls,
    plain_module,
    unobserved,
)
from manualbp.fast.cpu import products as gemm
from manualbp.fast.cpu.layers import fastened
from manualbp.fast.gpu import kernels
from manualbp.maths import layers
from manualbp.maths.layers import Layer, Theta


def call(
    modules: Sequence[nn.Module] | nn.Sequential,
    x: Any,
    residual: bool = False,
    fast: bool = False,
    low: bool = False,
) -> Any:
    """f(x), the modules in order; with ``residual`` x + f(x).

    ``fast`` or exact is the mode (gemm.py), ``low`` or full the memory (recompute.py).
    """
    if fast and not low and gemm.small(modules, x):
        h = directly(modules, x)
        return x + h if residual else h
    steps: Iterable[Run | nn.Module] = modules
    if unobserved(x):
        steps = list(gather(modules, fast, low, paired=fast and kernels.takes(x)))
        if residual and len(steps) == 1 and isinstance(steps[0], Run):
            return steps[0](x, residual)
    h = x
    for step in steps:
        h = step(h)
    return x + h if residual else h


def directly(modules: Iterable[nn.Module], x: Any) -> Any:
    """The modules in order, known ones as their operators: calls are much of a small step."""
    plain = plain_calls()
    for module in modules:
        operator = _OPERATORS.get(type(module)) if plain else None
        x = operator(module, x) if operator and plain_module(module) else module(x)
    return x


def _linear(m: Any, h: Tensor) -> Tensor:
    own = m._parameters  # past nn.Module's search for attributes
    plain = "weight" in own and "bias" in own  # as long as nobody has put something else there
    return F.linear(h, own["weight"], own["bias"]) if plain else m(h)


_OPERATORS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Linear: _linear,
    nn.ReLU: lambda m, h: F.relu(h, m.inplace),
    nn.Tanh: lambda m, h: torch.tanh(h),
    nn.Sigmoid: lambda m, h: torch.sigmoid(h),
    nn.SiLU: lambda m, h: F.silu(h, m.inplace),
    nn.GELU: lambda m, h: F.gelu(h, approximate=m.approximate),
}


class Run(NamedTuple):
    """Modules that follow each other and are all known: a chain of layers."""

    modules: list[nn.Module]
    layers: list[Layer]
    thetas: list[Theta]
    low: bool = False
    paired: bool = False  # to be run in pairs of product and activation, as on GPUs (pairs.py)

    def __call__(self, x: Tensor, residual: bool = False) -> Tensor:
        serves = self.serves(x, residual)
        if serves and not distributed():
            return self._chain(x, x if residual else None)
        h = x
        for step in self._pieces() if serves else self.modules:
            h = step(h)
        return x + h if residual else h

    def _chain(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        return run_chain(self.layers, self.thetas, skip, x, self.low, self.paired)

    def _pieces(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """A chain for each layer with parameters.

        Gradients leave a chain together. Data-parallel training sends each as soon as it is there,
        while backward goes on: so there they have to leave layer by layer, as autograd's do.
        """
        starts = [i for i, theta in enumerate(self.thetas) if theta]
        for start, end in pairwise([0, *starts[1:], len(self.layers)]):
            part = slice(start, end)
            yield Run([], self.layers[part], self.thetas[part], paired=self.paired)._chain

    def serves(self, x: Tensor, residual: bool = False) -> bool:
        """Whether all is plain and fits; where it does not, torch.nn's own error is to be seen."""
        parameters = [t for theta in self.thetas for t in theta if t is not None]
        buffers = [t for layer in self.layers for t in layer.buffers()]
        return (
            bool(parameters)
            and alike([x, *parameters, *buffers])
            and any(t.requires_grad for t in (x, *parameters))
            and self._laid_out(x)
            and self.fits(x, residual)
        )

    def _laid_out(self, x: Tensor) -> bool:
        return layers.row_major(x) or (
            x.dim() == 2 and not any(type(layer) is layers.RMSNorm for layer in self.layers)
        )

    def fits(self, x: Tensor, residual: bool = False) -> bool:
        """Whether the shapes chain, and every layer takes this device and dtype."""
        shape: tuple[int, ...] = x.shape
        device, dtype = x.device.type, x.dtype
        for layer, theta in zip(self.layers, self.thetas, strict=True):
            fitting = layer.output_shape(shape, theta)
            if fitting is None or device not in layer.devices:
                return False
            if layer.dtypes is not None and dtype not in layer.dtypes:
                return False
            shape = fitting
        return shape == x.shape or not residual


def gather(
    modules: Iterable[nn.Module], fast: bool = False, low: bool = False, paired: bool = False
) -> Iterator[Run | nn.Module]:
    """The modules, with those that can make a chain gathered into runs."""
    closed = partial(_closed, fast=fast and not paired, low=low, paired=paired)
    run = Run([], [], [])
    for module in modules:
        found = layers.from_module(module) if plain_module(module) else None
        over = layers.in_place(module)
        if (
            found is None
            or (over and not (run.layers and run.thetas[-1]))
            or (type(found[0]) is layers.RMSNorm and not run.layers)
        ):
            yield from closed(run)
            run = Run([], [], [])
            yield module
            continue
        run.modules.append(module)
        layer, theta = found
        if over and isinstance(layer, layers.Elementwise):
            layer = replace(layer, in_place=run.layers[-1] is layers.LINEAR)
        if layer is not None:
            run.layers.append(layer)
            run.thetas.append(theta)
    yield from closed(run)


def _closed(run: Run, fast: bool, low: bool, paired: bool) -> Iterator[Run | nn.Module]:
    """The run, if there is a matrix product in it to win anything by."""
    if any(layer is layers.LINEAR for layer in run.layers):
        chain = fastened(run.layers, run.thetas) if fast else (run.layers, run.thetas)
        yield Run(run.modules, *chain, low, paired)
    else:
        yield from run.modules
