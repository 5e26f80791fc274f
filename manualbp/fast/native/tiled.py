"""Chains, and chains with their loss, in C++ by tiles of rows: for which layers, and which tiles.

The rule: float32 on CPU, contiguous parameters, at least one row; Linear, the activations, and
LayerNorm over one dimension; not where the parameters take ``LARGE_BYTES`` or more and there are
fewer than ``MANY_ROWS`` rows, which do not pay for W^T in panels and for the gradients of each
thread. Activations are kept for backward, unless one of them takes
``FRESH_BYTES`` or more and no layer is wider than ``WIDEST``: then they are computed again. With
low memory they always are. With full memory an x that wants a gradient, which may be
differentiated again, is not ours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd import recomputed
from manualbp.autograd.segment import Segment
from manualbp.fast.native import exact
from manualbp.maths import backprop
from manualbp.maths.activations.rectifiers import SELU_ALPHA, SELU_SCALE
from manualbp.maths.layers import Elementwise, Layer, LayerNorm, Linear, Theta, rows

# malloc takes a block of this size from the system each time; up to this width it takes less time
# to compute an activation twice.
FRESH_BYTES, WIDEST = 2**25, 256
# Parameters of so many bytes need so many rows.
LARGE_BYTES, MANY_ROWS = 2**24, 2048


class Tiled:
    """A chain that runs by tiles."""

    def __init__(self, net: Any, tensors: list[Tensor], keeps: bool) -> None:
        self.net, self.tensors, self.keeps = net, tensors, keeps

    def apply(self, x: Tensor, residual: bool) -> Tensor:
        """o, or x + o; x (..., I)."""
        o: Tensor = exact.library().tiles(self.net, rows(x), self.keeps)
        if x.dim() != 2:
            o = o.view(*x.shape[:-1], o.shape[1])
        return x + o if residual else o

    def serve(self, guard: Any, x: Tensor, residual: bool) -> None:
        """Has the guard run it for such an x."""
        if x.dim() == 2 and not residual:
            exact.library().serve_tiles(guard, self.net, self.tensors, x, self.keeps)


def chain(segment: Segment, x: Tensor, low: bool) -> Tiled | None:
    """The segment by tiles; None where the rule says no, or there is no library."""
    if x.requires_grad and not low:
        return None
    net = net_of(segment, x)
    if net is None:
        return None
    widths = [len(t) for t in segment.tensors()]
    widest = max(widths)
    fresh = x.numel() // max(x.shape[-1], 1) * widest * x.itemsize >= FRESH_BYTES
    return Tiled(net, segment.tensors(), not (low or (fresh and widest <= WIDEST)))


def net_of(segment: Segment, x: Tensor, tile_rows: int | None = None) -> Any:
    """The segment as the tiles run it on such an x; None where they cannot."""
    library = exact.library()
    if library is None or not (x.is_cpu and x.dtype is torch.float32) or x.numel() == 0:
        return None
    if not all(_takes(*both) for both in zip(segment.layers, segment.thetas, strict=True)):
        return None
    present, tensors = segment.present, segment.tensors()
    large = sum(t.nbytes for t in tensors) >= LARGE_BYTES
    if large and tile_rows is None and x.numel() < MANY_ROWS * x.shape[-1]:
        return None
    again = functools.partial(_recorded, segment.layers, segment.parameters)
    net = library.Net(x.shape[-1], tile_rows or 0, tensors, again)
    position = iter(range(len(tensors)))
    places = [next(position) if there else -1 for there in present]
    for layer, at in zip(segment.layers, backprop.by_layer(segment.layers, places), strict=True):
        if isinstance(layer, Linear):
            net.linear(*at)
        elif isinstance(layer, LayerNorm):
            net.layer_norm(layer.shape[0], layer.eps, *at)
        elif isinstance(layer, Elementwise):
            net.activation(*_activation(layer))
    return net


def as_read(y: Tensor) -> Tensor:
    """The target with class indices as the tiles read them."""
    return y if y.is_floating_point() else y.long()


def _takes(layer: Layer, theta: Theta) -> bool:
    if any(t is not None and not (t.is_contiguous() and t.numel() > 0) for t in theta):
        return False
    if type(layer) is LayerNorm:
        return len(layer.shape) == 1
    return type(layer) in (Linear, Elementwise) and exact.code(layer) is not None


def _activation(layer: Elementwise) -> tuple[str, float, float]:
    """The name, and the numbers p and q of csrc/tiles/activations.h."""
    code = exact.code(layer)
    assert code is not None  # _takes asked
    name, *_, p, q = code
    return name, *{"elu": (p, 1.0), "selu": (SELU_ALPHA, SELU_SCALE)}.get(name, (p, q))


def _recorded(
    layers: Sequence[Layer], parameters: Sequence[Tensor | None], x: Tensor,
    values: Sequence[Tensor], delta: Tensor, then: Sequence[bool], now: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients in a graph that is being recorded, or of a batch of cotangents.

    The activations are computed again, from the x and the parameters that carry their graphs.
    """
    value, trained, wants = iter(values), iter(then), iter(now)
    found: list[Tensor | None] = []
    for parameter in parameters:
        if parameter is None:
            found.append(None)
            continue
        graph = parameter if next(trained) and torch.is_grad_enabled() else None
        found.append(recomputed.with_graph(next(value), graph))
    x = x if then[-1] else x.detach()
    wanted = [p is not None and next(wants) for p in parameters]
    thetas, by_layer = (backprop.by_layer(layers, each) for each in (found, wanted))
    steps = backprop.steps(layers, thetas, by_layer, now[-1])
    gradients = recomputed.whole(x, delta, steps)
    there = zip(gradients.thetas, parameters, strict=True)
    return [*(g for g, p in there if p is not None), gradients.input]
