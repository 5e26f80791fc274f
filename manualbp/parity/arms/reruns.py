"""One arm in other situations than one forward and one backward: its tensors by name.

Each function takes what a run takes (runs.py) and leaves its arm as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import Forward, Tensors, buffers_restored, forward
from manualbp.parity.arms.runs import (
    backward,
    cotangents_of,
    gradients_of,
    own_copies,
    wanted_of,
)
from manualbp.parity.arms.subject import Subject, kept_running

Rerun = Callable[[Subject, Call, Directions], Tensors]
Layout = Callable[[Tensor], Tensor]


def plain(s: Subject, call: Call, directions: Directions) -> Tensors:
    """One forward and one backward."""
    return backward(s, call, directions).tensors


def second_backward(s: Subject, call: Call, directions: Directions) -> Tensors:
    """The gradients of a second backward through the same graph."""
    with buffers_restored(s):
        made = forward(s, call)
        _from(s, made, directions, retain_graph=True)
        return _from(s, made, directions)


def with_grad_output(layout: Layout) -> Rerun:
    """The gradient of every output has the same numbers in another layout."""
    return lambda s, call, directions: backward(s, call, directions, hook=layout).tensors


def with_inputs(layout: Layout) -> Rerun:
    """Every floating-point input has the same numbers in another layout."""

    def run(s: Subject, call: Call, directions: Directions) -> Tensors:
        leaves = {n: layout(x) for n, x in call.leaves.items() if x.is_floating_point()}
        return plain(s, call.with_leaves(leaves), directions)

    return run


def frozen(names: Collection[str]) -> Rerun:
    """Inputs and parameters of these names want no gradient."""

    def run(s: Subject, call: Call, directions: Directions) -> Tensors:
        with _frozen(s, names), buffers_restored(s):
            made = forward(s, call, frozen=names)
            return {**made.tensors, **_from(s, made, directions)}

    return run


def from_output(name: str, call: Call, directions: Directions) -> Rerun:
    """The gradients of one output, the others unused; for this call and these directions."""

    def run(s: Subject, _call: Call, _directions: Directions) -> Tensors:
        with buffers_restored(s):
            made = forward(s, call)
            return _from(s, made._replace(roots={name: made.roots[name]}), directions)

    return run


def accumulated(s: Subject, call: Call, directions: Directions) -> Tensors:
    """Every ``.grad`` after a backward that found zeros and one that added to them."""
    parameters = [p for p in s.parameters.values() if p.requires_grad]
    before = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        with buffers_restored(s):
            made = forward(s, call)
            _add_up(made, directions, 0.0)
            _add_up(forward(s, call, leaves=made.leaves), directions)
        return own_copies({n: x.grad for n, x in wanted_of(s, made.leaves).items()})
    finally:
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient


def first_of_two(other: Call) -> Rerun:
    """The gradients of a call, with another call between its forward and its backward."""

    def run(s: Subject, call: Call, directions: Directions) -> Tensors:
        with buffers_restored(s):
            made = forward(s, call)
            forward(s, other)
            return _from(s, made, directions)

    return run


def second_of_two(other: Call) -> Rerun:
    """The gradients of that other call, after those of the first one."""

    def run(s: Subject, call: Call, directions: Directions) -> Tensors:
        with buffers_restored(s):
            first, second = forward(s, call), forward(s, other)
            _from(s, first, directions)
            return {**second.tensors, **_from(s, second, directions)}

    return run


def _from(s: Subject, made: Forward, directions: Directions, retain_graph: bool = False) -> Tensors:
    """The gradients of what a forward has made."""
    cotangents = cotangents_of(made.roots, directions)
    wanted = wanted_of(s, made.leaves)
    return own_copies(gradients_of(made.roots, cotangents, wanted, keep=retain_graph))


def _add_up(made: Forward, directions: Directions, factor: float = 1.0) -> None:
    """Add the gradients to ``.grad``, as training does."""
    cotangents = cotangents_of(made.roots, directions)
    live = {n: factor * g for n, g in cotangents.items() if made.roots[n].requires_grad}
    if live:
        with kept_running():
            torch.autograd.backward([made.roots[n] for n in live], list(live.values()))


@contextmanager
def _frozen(s: Subject, names: Collection[str]) -> Iterator[None]:
    parameters = [p for n, p in s.parameters.items() if n in names and p.requires_grad]
    try:
        for p in parameters:
            p.requires_grad_(False)
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
