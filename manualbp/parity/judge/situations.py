"""Situations that a backward pass gets into in real programs: one row of the report each.

A kernel that is right in one forward and one backward may be wrong where it is called again, where
grad_output is laid out in another way, or where a gradient is not asked for. In each situation the
candidate runs once more, and its gradients are held against those of its plain run:

    equal bits     agree
    else           the yardstick judges them, as in the plain run
    else           the reference runs in the same situation; where it changes as well, or raises,
                   the situation is not judged
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from manualbp.parity.arms import reruns
from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import Tensors
from manualbp.parity.arms.layouts import expanded, sliced, transposed
from manualbp.parity.arms.runs import backward
from manualbp.parity.bits import bit_identical
from manualbp.parity.judge.comparison import Comparison, raised
from manualbp.parity.judge.yardstick import TWINS, Yardstick
from manualbp.parity.record import AGREE, DIFFER, NOT_JUDGED, Situation


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
    call, directions = c.call.without_loss(), Directions(c.call.seed)
    c.candidate_tensors(call, directions)  # draws them
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
    call, directions = c.call.without_loss(), Directions(c.call.seed)
    c.candidate_tensors(call, directions)  # draws them
    if len(directions.drawn) < 2:
        return
    for name in list(directions.drawn)[:EACH_IN_TURN]:
        others = {n: d if n == name else torch.zeros_like(d) for n, d in directions.drawn.items()}
        yield Variant(
            reruns.from_output(name, call, directions), f"{name} alone is used",
            (call, Directions(call.seed, others)),
        )  # fmt: skip


def _accumulated(c: Comparison) -> Iterator[Variant]:
    yield Variant(reruns.accumulated)


def _two_calls(c: Comparison) -> Iterator[Variant]:
    other = c.call.with_leaves({n: -0.5 * x for n, x in c.call.leaves.items()
                                if x.is_floating_point()})  # fmt: skip
    yield Variant(reruns.first_of_two(other), "the first call's gradients")
    yield Variant(reruns.second_of_two(other), "the second call's gradients", (other, c.directions))


EACH_IN_TURN = 8  # inputs, parameters or outputs that are taken one by one
SITUATIONS = (
    Kind("second backward", _second_backward,
         "right the first time, other numbers the second: backward writes over what it saved",
         "clone in backward what it changes, or do not write in place"),
    Kind("grad_output in another layout", _grad_output,
         "wrong where grad_output is not contiguous: its strides are ignored",
         "read grad_output by its strides, or begin backward with grad_output.contiguous()"),
    Kind("inputs in another layout", _inputs,
         "wrong where an input is not contiguous: its strides are ignored",
         "read the inputs by their strides, or begin forward with .contiguous()"),
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


def judge_situations(comparison: Comparison) -> tuple[Situation, ...]:
    """Every situation that there is for a ``backward`` comparison which agrees."""
    found = (_judge(comparison, kind) for kind in SITUATIONS)
    return tuple(situation for situation in found if situation)


def _judge(comparison: Comparison, kind: Kind) -> Situation | None:
    """The verdict of the first case that does not agree; None where there is no case."""
    verdict = None
    for case in kind.cases(comparison):
        verdict = Situation(kind.name, AGREE) if verdict is None else verdict
        tensor, wrong = _wrong(comparison, case)
        if not wrong:
            continue
        where = f" ({case.detail})" if case.detail else ""
        excuse = _excuse(comparison, case, tensor)
        if excuse:
            verdict = Situation(kind.name, NOT_JUDGED, f"{excuse}{where}")
            continue
        words = f"{kind.words}{where}: {wrong}" if tensor else f"{wrong}{where}"
        return Situation(kind.name, DIFFER, words, tensor, kind.step)
    return verdict


def _wrong(comparison: Comparison, case: Variant) -> tuple[str, str]:
    """The first tensor that differs, and how; the empty string where none does."""
    own = comparison.candidate_call
    try:
        got = case.run(comparison.candidate, own, comparison.directions)
        expected = comparison.ours.tensors
        if case.plain:
            call, directions = case.plain
            expected = comparison.candidate_tensors(call, directions)
    except Exception as error:
        return "", raised(error)
    unequal = {n: t for n, t in got.items() if not _same(t, expected.get(n))}
    return _by_yardstick(comparison, case, unequal) if unequal else ("", "")


def _by_yardstick(comparison: Comparison, case: Variant, tensors: Tensors) -> tuple[str, str]:
    """The first of these tensors that is further from the float64 run than rounding allows."""
    yardstick, theirs = comparison.yardstick, comparison.theirs.tensors
    if case.plain:
        call, directions = case.plain
        theirs = reruns.plain(comparison.reference, call, directions)
        yardstick = Yardstick(backward, comparison.reference, call, directions, comparison.twins)
    yardstick.extend(TWINS)
    for name, value in tensors.items():
        report = yardstick.judge(name, value, theirs.get(name))
        if report.verdict == DIFFER:
            return name, f"{name}: {report.reason}"
    return "", ""


def _excuse(comparison: Comparison, case: Variant, tensor: str) -> str:
    """Why the candidate is not to blame: the reference does the same."""
    try:
        theirs = case.run(comparison.reference, comparison.call, comparison.directions)
    except Exception as error:
        return f"the reference raises {type(error).__name__} there"
    if tensor and _by_yardstick(comparison, case, {tensor: theirs.get(tensor)})[1]:
        return f"the reference's {tensor} changes there as well"
    return ""


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal bits; no gradient is as good as one of zeros."""
    if a is None or b is None:
        there = a if b is None else b
        return there is None or not there.any()
    return bit_identical(a, b)
