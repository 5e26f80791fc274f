"""The layers of a chain, a = f(h; theta), each with its forward and its backward side by side.

``from_module`` gives the layer that computes what a torch.nn module computes. Exact types only: a
subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn

from manualbp.maths import activations
from manualbp.maths.layers.base import (
    By,
    Grads,
    Kept,
    Layer,
    Needs,
    Shape,
    Tape,
    Theta,
    read,
    taken,
    total,
)
from manualbp.maths.layers.batch_norm import BatchNorm
from manualbp.maths.layers.elementwise import Dropout, Elementwise
from manualbp.maths.layers.linear import Linear, column_major, own, row_major, rows
from manualbp.maths.layers.norms import LayerNorm, RMSNorm

__all__ = ["LINEAR", "MODULES", "BatchNorm", "By", "Dropout", "Elementwise", "Grads", "Kept",
           "Layer", "LayerNorm", "Linear", "Needs", "RMSNorm", "Shape", "Tape", "Theta",
           "column_major", "from_module", "in_place", "own", "read", "row_major", "rows", "taken",
           "total"]  # fmt: skip

LINEAR = Linear()


def from_module(module: nn.Module) -> tuple[Layer | None, Theta] | None:
    """The layer and its parameters; a layer None where nothing is done; None where unknown."""
    build = MODULES.get(type(module))
    return build(module) if build else None


def in_place(module: nn.Module) -> bool:
    """Whether it writes over its input: right only where nobody else reads that."""
    return bool(module.__dict__.get("inplace", False))


# Working in place, autograd differentiates these from a instead of z, and rounds differently.
_READ_RESULT = (nn.ELU, nn.SELU, nn.LeakyReLU)


def _activation(module: Any) -> tuple[Layer | None, Theta] | None:
    f = activations.from_module(module)
    if f is None or (type(module) in _READ_RESULT and module.inplace):
        return None  # of a form not known here
    return None if type(f) is activations.Identity else _elementwise(f), ()


_elementwise = lru_cache(Elementwise)  # equal ones are one: they are asked for in every call


def _dropout(m: Any) -> tuple[Layer | None, Theta] | None:
    if not 0 <= m.p <= 1:
        return None
    if m.p == 0 or not m.training:
        return None, ()
    return None if m.inplace or m.p == 1 else (Dropout(m.p), ())


def _batch_norm(m: Any) -> tuple[Layer | None, Theta] | None:
    numbers = isinstance(m.eps, float) and isinstance(m.momentum, (float, int, type(None)))
    if not numbers or m.eps <= 0:
        return None  # an error, or about to be one
    tracks = not m.training or m.track_running_stats
    mean, var = (m.running_mean, m.running_var) if tracks else (None, None)
    counts = m.training and m.track_running_stats
    by_batch = m.training or (m.running_mean is None and m.running_var is None)
    batches = m.num_batches_tracked if counts else None
    return BatchNorm(mean, var, batches, by_batch, m.momentum, m.eps), (m.weight, m.bias)


MODULES: dict[type[nn.Module], Callable[[Any], tuple[Layer | None, Theta] | None]] = {
    nn.Linear: lambda m: (LINEAR, (m.weight, m.bias)),
    **dict.fromkeys(activations.MODULES, _activation),
    nn.Dropout: _dropout,
    nn.LayerNorm: lambda m: (LayerNorm(m.normalized_shape, float(m.eps)), (m.weight, m.bias)),
    nn.RMSNorm: lambda m: (RMSNorm(m.normalized_shape, m.eps), (m.weight,)),
    nn.BatchNorm1d: _batch_norm,
}
