"""Situations that a backward pass gets into in real programs: the catalogue.

A kernel may be right in one forward and one backward, and wrong in a program: where it is called
again, grad_output lies otherwise in memory, or a gradient is not asked for. To add a situation,
write a run into arms/reruns.py and an entry into ``SITUATIONS``. in_situations.py judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from manualbp.parity.arms import reruns
from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.layouts import expanded, sliced, transposed
from manualbp.parity.judge.comparison import Comparison


class Variant(NamedTuple):
    """One run in a situation. ``detail`` says which, where there are several.

    ``plain`` is what the plain run is called with, where it is not the check's own.
    """

    run: reruns.Rerun
    detail: str = ""
    plain: tuple[Call, Directions] | None = None


@dataclass(frozen=True)
class Kind:
    """A situation: its cases, and what is wrong where the numbers are others there."""

    name: str
    cases: Callable[[Comparison], Iterator[Variant]]
    words: str
    step: str


def _second_backward(c: Comparison) -> Iterator[Variant]:
    yield Variant(reruns.second_backward)


def _grad_output(c: Comparison) -> Iterator[Variant]:
    for layout in (transposed, sliced):
        yield Variant(reruns.with_grad_output(layout), layout.__name__)
    call, directions = _by_outputs(c)
    if any(d.numel() > 1 for d in directions.drawn.values()):
        same = {n: expanded(d) for n, d in directions.drawn.items()}
        dense = {n: d.contiguous() for n, d in same.items()}
        yield Variant(
            lambda s, _call, _directions: reruns.plain(s, call, Directions(call.seed, dict(same))),
            "expanded", (call, Directions(call.seed, dense)),
        )  # fmt: skip


def _inputs(c: Comparison) -> Iterator[Variant]:
    for layout in (transposed, sliced):
        yield Variant(reruns.with_inputs(layout), layout.__name__)


def _frozen(c: Comparison) -> Iterator[Variant]:
    """Each input and parameter in turn; of many, halves: every one is frozen without any other."""
    names = [n.removesuffix(".grad") for n, g in c.theirs.tensors.items() if n.endswith(".grad")]
    if len(names) < 2:
        return
    groups: list[tuple[str, ...]] = [(name,) for name in names]
    if len(names) > EACH_IN_TURN:
        bits = range((len(names) - 1).bit_length())
        groups = [
            tuple(name for i, name in enumerate(names) if (i >> bit) % 2 == half)
            for bit in bits for half in (0, 1)
        ]  # fmt: skip
    for group in groups:
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        yield Variant(reruns.frozen(group), f"without a gradient for {group[0]}{more}")


def _each_output(c: Comparison) -> Iterator[Variant]:
    call, directions = _by_outputs(c)
    if len(directions.drawn) < 2:
        return
    for name in list(directions.drawn)[:EACH_IN_TURN]:
        others = {n: d if n == name else torch.zeros_like(d) for n, d in directions.drawn.items()}
        yield Variant(
            reruns.from_output(name, call, directions), f"{name} alone is used",
            (call, Directions(call.seed, others)),
        )  # fmt: skip


def _by_outputs(c: Comparison) -> tuple[Call, Directions]:
    """The call without its loss, and a random cotangent for each output."""
    call, directions = c.call.without_loss(), Directions(c.call.seed)
    c.candidate_tensors(call, directions)  # draws them
    return call, directions


def _accumulated(c: Comparison) -> Iterator[Variant]:
    yield Variant(reruns.accumulated)


def _two_calls(c: Comparison) -> Iterator[Variant]:
    other = c.call.with_leaves({n: 0.5 * x for n, x in c.call.leaves.items()
                                if x.is_floating_point()})  # fmt: skip
    yield Variant(reruns.first_of_two(other), "the first call's gradients")
    yield Variant(reruns.second_of_two(other), "the second call's gradients", (other, c.directions))


EACH_IN_TURN = 8  # inputs, parameters or outputs that are taken one by one
GRAD_OUTPUT = Kind(
    "grad_output in another layout", _grad_output,
    "wrong where grad_output is not contiguous: its strides are ignored",
    "read grad_output by its strides, or begin backward with grad_output.contiguous()",
)  # fmt: skip
INPUTS = Kind(
    "inputs in another layout", _inputs,
    "wrong where an input is not contiguous: its strides are ignored",
    "read the inputs by their strides, or begin forward with .contiguous()",
)  # fmt: skip
SITUATIONS = (
    Kind("second backward", _second_backward,
         "right the first time, other numbers the second: backward writes over what it saved",
         "clone in backward what it changes, or do not write in place"),
    GRAD_OUTPUT,
    INPUTS,
    Kind("some gradients not asked for", _frozen,
         "other gradients where one is not asked for",
         "look at what depends on ctx.needs_input_grad, or on requires_grad"),
    Kind("one output used alone", _each_output,
         "wrong where another output is not used: its gradient is None or zeros then",
         "treat a None for an unused output as zeros, or leave set_materialize_grads on"),
    Kind("added to an existing .grad", _accumulated,
         "wrong where .grad holds a gradient already",
         "return a new tensor from backward; let autograd add it to .grad"),
    Kind("two calls before two backwards", _two_calls,
         "wrong where another call comes between forward and backward: state is kept outside ctx",
         "keep what backward reads on ctx, not on the module or the class"),
)  # fmt: skip
