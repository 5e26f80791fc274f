"""Chains and losses as C++ nodes, for those of which every part is written in C++."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from manualbp.autograd import chain as chains
from manualbp.autograd import cost as costs
from manualbp.autograd import torch_internals
from manualbp.autograd.segment import Segment
from manualbp.fast import native
from manualbp.maths import losses
from manualbp.maths.activations import ACTIVATIONS, ELU, Hardtanh, LeakyReLU, Softplus
from manualbp.maths.cross_entropy import CrossEntropy
from manualbp.maths.layers import Elementwise, Layer, Linear, elementwise
from manualbp.maths.losses import REDUCTIONS, Loss

KEY = "manualbp_plan"  # under which a module keeps what was found about it; a guard passes over it
_NAMES = {type(f): name for name, f in ACTIVATIONS.items() if name != "identity"}
# The two numbers of an activation that has some.
_NUMBERS: dict[Any, Callable[[Any], tuple[float, float]]] = {
    LeakyReLU: lambda f: (f.negative_slope, 0),
    ELU: lambda f: (f.alpha, 0),
    Softplus: lambda f: (f.beta, f.threshold),
    Hardtanh: lambda f: (f.min_val, f.max_val),
}
# The number of a loss that has one.
_NUMBER: dict[Any, Callable[[Any], float]] = {
    losses.Huber: lambda m: m.delta,
    losses.SmoothL1: lambda m: m.beta,
    CrossEntropy: lambda m: m.label_smoothing,
}
_LOSSES = (losses.MSE, losses.L1, losses.Huber, losses.SmoothL1, losses.BCEWithLogits, CrossEntropy)


def chain(segment: Segment) -> Any:
    """The segment as one C++ node: ``.apply(segment, segment.parameters, x, residual)``.

    None where there is no library, or a layer that it lacks.
    """
    library = _library()
    row = [_code(layer) for layer in segment.layers]
    if library is None or not all(row):
        return None
    return library.Chain(row, chains.backward_of, elementwise.WORTH_IT)


def loss(rule: Loss) -> Any:
    """The loss as one C++ node: ``.apply(rule, o, y)``; None where there is no library."""
    library = _library()
    if library is None or type(rule) not in _LOSSES:
        return None
    number = _NUMBER.get(type(rule), lambda m: 0.0)(rule)
    ignored = getattr(rule, "ignore_index", -100)
    reduction = REDUCTIONS[rule.reduction]
    return library.Loss(
        type(rule).__name__, reduction, number, ignored, *weights(rule), costs.backward_of
    )


def weights(rule: Loss) -> list[Any]:
    """The weight and the pos_weight of a loss; None where it has none."""
    return [getattr(rule, "weight", None), getattr(rule, "pos_weight", None)]


def guard(children: Any, dicts: list[Any], empty: list[Any], classes: list[Any]) -> Any:
    """Sees whether anything has changed; None where there is no library (csrc/guard.h).

    Args:
        children: a tuple of modules; or a dict, of which the keys must stay as well.
        dicts: whose keys and values must stay the same objects.
        empty: dicts that must stay empty.
        classes: (class, its forward, its __call__).
    """
    library = _library()
    return library and library.Guard(children, dicts, empty, classes)


def _no_numbers(f: Any) -> tuple[float, float]:
    return 0, 0


def _code(layer: Layer) -> tuple[str, bool, bool, float, float] | None:
    if type(layer) is Linear:
        return "linear", layer.h_column_major, layer.w_column_major, 0, 0
    if type(layer) is not Elementwise or type(layer.activation) not in _NAMES:
        return None
    f = layer.activation
    return _NAMES[type(f)], layer.in_place, False, *_NUMBERS.get(type(f), _no_numbers)(f)


def _library() -> Any:
    library = native.library()
    return library and _connected(library)


@functools.lru_cache
def _connected(library: Any) -> Any:
    """The library, once it knows what it asks of Python."""
    hooks, distributed = torch_internals.GLOBAL_HOOKS, _distributed()
    library.set_surroundings(hooks, nn.Module, torch_internals.CALL, distributed, KEY)
    return library


def _distributed() -> Callable[[], bool]:
    if torch.distributed.is_available():
        return torch.distributed.is_initialized
    return bool
