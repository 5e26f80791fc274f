"""Children in a row that make one chain: when they fit, and what runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from manualbp import fast
from manualbp.autograd import torch_internals
from manualbp.autograd.chain import apply_chain
from manualbp.autograd.recomputed import apply_recomputed
from manualbp.autograd.segment import Segment
from manualbp.maths import layers
from manualbp.maths.layers import Layer, Theta
from manualbp.modules import refusal


def stretches(
    modules: Iterable[nn.Module], mode: str = "exact", memory: str = "full", gpu: bool = False
) -> list[Stretch | nn.Module]:
    """The modules, with those that can make a chain gathered into stretches."""
    found: list[Stretch | nn.Module] = []
    row = Stretch(mode, memory, gpu)
    for module in modules:
        if refusal.of_module(module) is not None or not row.takes(module):
            found += row.closed()
            row = Stretch(mode, memory, gpu)
            found.append(module)
        else:
            row.add(module)
    return [*found, *row.closed()]


# What may change about a tensor between two calls without an error of PyTorch's own.
_dtype = attrgetter("dtype")


class Stretch:
    """Children in a row that are all known: a chain of layers."""

    def __init__(self, mode: str, memory: str, gpu: bool) -> None:
        self.quick, self.low, self.gpu = mode == "fast", memory == "low", gpu
        self.modules: list[nn.Module] = []
        self.layers: list[Layer] = []
        self.thetas: list[Theta] = []
        self.tensors: list[Tensor] = []  # that take part beside x
        # What x and the tensors were when they were found to fit, the chain for those, and the
        # same in C++.
        self.ready: tuple[Any, Any, Any] = (None, None, None)
        self.guard: Any = None  # that runs the chain without these questions, once it is ready
        self.served: set[Any] = set()  # the states for which it does

    def takes(self, module: nn.Module) -> bool:
        """Whether a module that can run by hand can do so at this place."""
        return any(self.thetas[-1:]) or refusal.in_front(module) is None or self._behind(module)

    def _behind(self, module: nn.Module) -> bool:
        return bool(self.layers) and not layers.in_place(module)

    def add(self, module: nn.Module) -> None:
        """The module as the next layer; one that does nothing is none."""
        layer, theta = layers.from_module(module)  # type: ignore[misc]
        self.modules.append(module)
        if layer is None:
            return
        if layers.in_place(module) and isinstance(layer, layers.Elementwise):
            layer = replace(layer, in_place=self.layers[-1] is layers.LINEAR)
        self.layers.append(layer)
        self.thetas.append(theta)
        self.tensors += [t for t in (*theta, *layer.buffers()) if t is not None]

    def closed(self) -> list[Stretch | nn.Module]:
        """This stretch, if there is a matrix product in it to win anything by; or its modules."""
        if layers.LINEAR not in self.layers:
            return list(self.modules)
        return [self]

    def __call__(self, x: Any) -> Any:
        """o, of an x that the module before it returned."""
        return self.run(x) if refusal.plain([x]) else in_order(self.modules, x)

    def run(self, x: Tensor, residual: bool = False) -> Any:
        """o, or x + o."""
        state = states(x, self.tensors), residual
        ready, segment, native = self.ready
        if ready != state:
            if self.refusal(x, residual) is not None:
                return in_order(self.modules, x, residual)
            segment = self.segment(x)
            native = fast.exact.chain(segment) if self.is_native() else None
            self.ready = state, segment, native
        if torch_internals.distributed():
            return in_order(self._pieces(segment), x, residual)
        if native is not None:
            if self.guard is not None and state not in self.served:
                self.served.add(state)
                self.guard.serve_chain(native, segment, segment.parameters, x, residual)
            return native.apply(segment, segment.parameters, x, residual)
        skip = x if residual else None
        o = fast.run(segment, x, skip, self.low, self.gpu) if self.quick else None
        if o is not None:
            return o
        if self.low and all(layer.constant for layer in segment.layers):
            return apply_recomputed(segment, None, skip, *segment.parameters, x)
        return apply_chain(segment, skip, *segment.parameters, x)[0]

    def is_native(self) -> bool:
        """Whether exact mode with full memory is asked for, which may run as one C++ node."""
        return not (self.quick or self.low)

    def refusal(self, x: Tensor, residual: bool = False) -> str | None:
        """Why this stretch cannot run on x; where nothing fits, torch.nn's own error is seen."""
        reason = refusal.of_tensors([x, *self.tensors])
        if reason is not None:
            return reason
        if not any(t.requires_grad for t in (x, *self.tensors)):
            return "nothing wants a gradient"
        if not layers.row_major(x) and (
            x.dim() != 2 or any(type(layer) is layers.RMSNorm for layer in self.layers)
        ):
            return "the input is laid out oddly"
        return None if self.fits(x, residual) else "the shapes do not fit, or a layer's device does"

    def fits(self, x: Tensor, residual: bool = False) -> bool:
        """Whether the shapes chain, and every layer takes this device and dtype."""
        shape: tuple[int, ...] = x.shape
        for layer, theta in zip(self.layers, self.thetas, strict=True):
            fitting = layer.output_shape(shape, theta)
            if fitting is None or x.device.type not in layer.devices:
                return False
            if layer.dtypes is not None and x.dtype not in layer.dtypes:
                return False
            shape = fitting
        return shape == x.shape or not residual

    def segment(self, x: Tensor) -> Segment:
        """The chain as one Function runs it on an x that fits."""
        if self.gpu:
            return Segment(fast.paired(self.layers, self.thetas), self.thetas)
        return Segment(laid_out(self.layers, self.thetas, x), self.thetas)

    def _pieces(self, segment: Segment) -> list[Callable[[Tensor], Tensor]]:
        """A chain for each layer with parameters.

        Gradients leave a chain together. Data-parallel training sends each one as soon as it is
        there, while backward goes on. So there they have to leave layer by layer, as autograd's do.
        """
        starts = [i for i, theta in enumerate(segment.thetas) if theta]
        pieces: list[Callable[[Tensor], Tensor]] = []
        for a, b in pairwise([0, *starts[1:], len(segment.layers)]):
            row, thetas = segment.layers[a:b], segment.thetas[a:b]
            # On a GPU a layer knows its neighbours, and here it has others.
            piece = Segment(fast.paired(row, thetas) if self.gpu else row, thetas)
            pieces.append(functools.partial(_run_piece, piece))
        return pieces


def _run_piece(segment: Segment, x: Tensor) -> Tensor:
    return apply_chain(segment, None, *segment.parameters, x)[0]


def states(x: Tensor, tensors: Sequence[Tensor]) -> Any:
    """All of x and of the tensors that decides how they take part, and may change."""
    return (
        x.shape,
        x.stride(),
        x.dtype,
        x.device,
        x.requires_grad,
        *map(_dtype, tensors),
        *map(Tensor.stride, tensors),
    )


def laid_out(row: Sequence[Layer], thetas: Sequence[Theta], x: Tensor) -> list[Layer]:
    """The layers with every Linear as autograd spells its products for these memory layouts."""
    found: list[Layer] = []
    # The strides of h, flattened to (N, I), as far as they are x's; behind a product they are new.
    h = torch.empty_strided(x.shape, x.stride(), device="meta") if x.dim() == 2 else None
    rows = x.shape[:-1].numel()
    for layer, theta in zip(row, thetas, strict=True):
        if isinstance(layer, layers.Linear):
            weight = layers.read(theta[0])
            single = rows == 1 and weight.shape[1] == 1
            by_column = single if h is None else layers.column_major(h)
            layer = _linear(by_column, weight.stride() != (weight.shape[1], 1))
        keeps_layout = isinstance(layer, (layers.Elementwise, layers.Dropout))
        h = h.neg() if h is not None and keeps_layout else None
        found.append(layer)
    return found


_linear = functools.lru_cache(layers.Linear)


def in_order(modules: Iterable[Callable[[Any], Any]], x: Any, residual: bool = False) -> Any:
    """f(x), or x + f(x), one module after the other."""
    h = x
    for module in modules:
        h = module(h)
    return x + h if residual else h
