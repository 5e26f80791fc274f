"""One forward of one arm: its outputs and loss by name, and where its backward starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, named, seed_all
from manualbp.parity.arms.checks import check_tensor
from manualbp.parity.arms.layouts import clone_as_laid, copy_as_laid
from manualbp.parity.arms.subject import AFTER, Subject, kept_running
from manualbp.parity.arms.trees import structure
from manualbp.parity.bits import bit_identical

Hook = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor | None]
LOSS = "loss"  # its name among the tensors


class Forward(NamedTuple):
    """What a forward has made, by name."""

    tensors: dict[str, Tensor]  # copies of outputs and loss, without their graph
    live: dict[str, Tensor]  # outputs and loss themselves
    structure: str  # what the output looks like, its tensors left out
    leaves: dict[str, Tensor]  # the inputs that get a gradient
    given: dict[str, Tensor]  # their clones, which the arm was called with
    roots: dict[str, Tensor]  # where the backward starts: the loss, or every output


@kept_running()
def forward(
    s: Subject,
    call: Call,
    hook: Hook | None = None,
    *,
    frozen: Collection[str] = (),
    leaves: Mapping[str, Tensor] | None = None,
) -> Forward:
    """Call an arm. ``hook`` will see the gradient of every output.

    Inputs that are ``frozen`` want no gradient. ``leaves`` are those of a call before, so that
    gradients add up in them.

    Raises:
        TypeError: the loss is no tensor, or there is no tensor in the output.
    """
    seed_all(call.seed)  # every arm sees the same dropout; inside fork_rng
    if leaves is None:
        leaves = {n: _leaf(x, n not in frozen) for n, x in call.leaves.items()}
    with torch.enable_grad():
        # Clones: an arm may begin in place, as nn.ReLU(inplace=True) does, which no leaf allows.
        given = {n: clone_as_laid(x) for n, x in leaves.items()}
        own = call.with_leaves(given)
        with warnings.catch_warnings():  # torch.compile reads .grad of its inputs, here of clones
            warnings.filterwarnings(
                "ignore", r"The \.grad attribute of a Tensor that is not a leaf"
            )
            output = s.call(*own.args, **own.kwargs)
        outputs = _outputs(output)
        if hook is not None:
            for value in outputs.values():
                on_gradient(value, hook)
        roots = outputs if call.loss is None else {LOSS: _loss(call, output)}
    live = outputs | roots
    found = {name: value.detach().clone() for name, value in live.items()}
    return Forward(found, live, structure(output), dict(leaves), given, roots)


def on_gradient(value: Tensor, hook: Hook) -> None:
    """Have ``hook`` change the gradient of a tensor; there is none where nothing reads it."""
    if value.requires_grad:
        value.register_hook(lambda g: None if g is None else hook(g))  # type: ignore[no-untyped-call]


def as_function(s: Subject, call: Call, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs, or the loss, as a function of inputs and parameters by name."""
    seed_all(call.seed)
    own = call.with_leaves(values)
    if s.module is None:
        output = s.call(*own.args, **own.kwargs)
    else:
        parameters = {path: values[name] for name, path in s.own.items() if name in values}
        output = torch.func.functional_call(s.module, parameters, own.args, own.kwargs)
    found = _outputs(output) if call.loss is None else {LOSS: _loss(call, output)}
    return {name: value for name, value in found.items() if value.is_floating_point()}


def only_rows(rows: Tensor) -> Hook:
    """A hook that sets an output's gradient to zero outside of ``rows``, a mask of shape (N,)."""

    def masked(gradient: Tensor) -> Tensor:
        mask = rows.to(gradient.device, gradient.dtype)
        return gradient * mask.reshape(-1, *[1] * (gradient.dim() - 1))

    return masked


@contextmanager
def buffers_restored(s: Subject) -> Iterator[Callable[[], Tensors]]:
    """Afterwards the buffers are as before; calling what it yields gives those that changed."""
    before = {name: (buffer, buffer.clone()) for name, buffer in s.buffers.items()}

    def changed() -> Tensors:
        return {f"{name}{AFTER}": buffer.clone() for name, (buffer, old) in before.items()
                if not bit_identical(buffer, old)}  # fmt: skip

    try:
        yield changed
    finally:
        with torch.no_grad():
            for buffer, old in before.values():
                buffer.copy_(old)


def _outputs(output: Any) -> dict[str, Tensor]:
    outputs = named(output, lambda path: "output" + pytree.keystr(path))
    if not outputs:
        raise TypeError(
            f"expected an output with at least one tensor, got {type(output).__name__}; "
            "let the arm return what it computes"
        )
    for name, value in outputs.items():
        check_tensor(name, value)
    return outputs


def _loss(call: Call, output: Any) -> Tensor:
    value = call.loss_of(output)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(
            f"expected the loss to be a floating-point tensor, got {type(value).__name__}; "
            "return the tensor itself, not its item()"
        )
    return value


def _leaf(values: Tensor, trained: bool) -> Tensor:
    return copy_as_laid(values).requires_grad_(trained and values.is_floating_point())
