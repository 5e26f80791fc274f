"""What an arm is called with, the names of its inputs, and random directions."""

from __future__ import annotations

from collections import OrderedDict
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from manualbp.parity.arms.calls import Call, Directions, WrongShape
from manualbp.parity.arms.runs import backward
from manualbp.parity.arms.subject import subject

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def of(inputs: Any, loss: Any = None, target: Any = None, seed: int = 0) -> Call:
    return Call.of(inputs, loss, target, seed)


# What goes in.


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


A, B, WHOLE = torch.zeros(2), torch.ones(3), torch.arange(2)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (A, ["input"]),
        ((A,), ["input"]),
        ([A], ["input"]),
        ((A, B, 3, "word"), ["input[0]", "input[1]"]),
        (([A, B],), ["input[0]", "input[1]"]),
        ((A, {"mask": B, "deep": (A, [WHOLE])}),
         ["input[0]", "input[1]['mask']", "input[1]['deep'][0]", "input[1]['deep'][1][0]"]),
        ({"x": A}, ["input['x']"]),
        (MappingProxyType({"y": [B, WHOLE]}), ["input['y'][0]", "input['y'][1]"]),
        (OrderedDict(x=A), ["input['x']"]),
        ((Pair(A, B), WHOLE), ["input[0].left", "input[0].right", "input[1]"]),
        (lambda seed: (A + seed, B), ["input[0]", "input[1]"]),
    ],
)  # fmt: skip
def test_names_of_inputs(inputs: Any, names: list[str]) -> None:
    assert list(of(inputs).leaves) == names


def test_inputs_by_seed_and_by_keyword() -> None:
    assert torch.equal(of(lambda seed: A + seed, seed=7).leaves["input"], A + 7)
    call = of({"x": A, "flag": True})
    other = call.with_leaves({"input['x']": B})
    assert other.args == () and other.kwargs["x"] is B and other.kwargs["flag"] is True
    assert call.kwargs["x"] is A


@pytest.mark.parametrize("inputs", [3, None, "x"])
def test_other_inputs_are_refused(inputs: Any) -> None:
    with pytest.raises(TypeError, match="a function of the seed, got"):
        of(inputs)


# Directions.


def test_a_direction_is_drawn_once_and_the_same_in_every_dtype() -> None:
    directions = Directions(3)
    first = directions.of("output", Y)
    assert torch.equal(directions.of("output", Y), first)
    assert torch.equal(directions.of("output", Y.float()), first.float())
    assert torch.equal(Directions(3).of("output", Y), first)
    assert not torch.equal(Directions(4).of("output", Y), first)
    assert not torch.equal(directions.of("loss", Y), first)


def test_who_writes_over_a_direction_harms_nobody() -> None:
    directions = Directions(0)
    before = directions.of("output", Y).clone()
    directions.of("output", Y).zero_()
    assert torch.equal(directions.of("output", Y), before)


def test_a_given_cotangent_is_taken() -> None:
    run = backward(subject(torch.tanh), of(X), Directions(0, {"output": torch.zeros_like(X)}))
    assert not run.tensors["input.grad"].any()  # type: ignore[union-attr]


def test_another_shape_has_no_direction() -> None:
    directions = Directions(0)
    directions.of("output", Y)
    with pytest.raises(WrongShape, match=r"shape \(2,\), expected \(3, 2\)"):
        directions.of("output", A)
