"""derivatives(model, x) against nested autograd: kinds of models, shapes, directions, orders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import manualbp
from manualbp.maths import taylor
from manualbp.maths.activations import ACTIVATIONS, to_module
from tests.conversion.derived import (
    NETS,
    OTHERS,
    PAIRS,
    SECOND,
    ByHand,
    Nested,
    by_hand,
    close,
    mlp,
    points,
    same,
)

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=["as found", "in Python"])
def way(request: pytest.FixtureRequest) -> None:
    """With the library in C++ where it is built, and without."""
    if request.param == "in Python":
        request.getfixturevalue("in_python")


@pytest.mark.parametrize("name", NETS)
def test_models(name: str) -> None:
    for dtype in (torch.float64, torch.float32):
        net, x = NETS[name]().to(dtype), points(5, 3, dtype)
        assert by_hand(net, x)
        for second in SECOND:
            same(net, x, second, orders=2 if dtype is torch.float64 else 1)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_by_hand_is_as_right(name: str) -> None:
    net, x = OTHERS[name]().double(), points(4, 3)
    assert not by_hand(net, x)
    for second in SECOND:
        same(net, x, second, orders=1)
        same(net, x, second, points(2, 3, trained=False), orders=1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    net = mlp(2, 4, 3, 1, act=lambda: to_module(ACTIVATIONS[name])).append(
        to_module(ACTIVATIONS[name])
    )
    for dtype in (torch.float64, torch.float32):
        for second in SECOND:
            same(net.to(dtype), points(6, 2, dtype), second, orders=1)


@pytest.mark.parametrize("second", SECOND, ids=str)
@pytest.mark.parametrize("inputs", range(1, 9))
def test_shapes(inputs: int, second: Any) -> None:
    """Odd widths; no row, one, and more."""
    dtype = torch.float32 if inputs % 2 else torch.float64
    ends = {None: [], "laplacian": [()], "diagonal": [(inputs,)], "hessian": [(inputs,) * 2]}
    for outputs, rows in ((1, 0), (1, 1), (1, 17), (2, 3), (3, 0), (3, 5)):
        net, x = mlp(inputs, 7, 5, outputs).to(dtype), points(rows, inputs, dtype)
        shapes = [(rows, outputs, *end) for end in [(), (inputs,), *ends[second]]]
        assert [tuple(t.shape) for t in manualbp.derivatives(net, x, second)] == shapes
        same(net, x, second, orders=1)


LINES = {
    "one": lambda rows: points(1, 3, trained=False),
    "more than inputs": lambda rows: points(5, 3, trained=False),
    "long": lambda rows: 30 * points(2, 3, trained=False),
    "zero": lambda rows: torch.zeros(2, 3, dtype=torch.float64),
    "twice the same": lambda rows: points(1, 3, trained=False).repeat(2, 1),
    "of each point": lambda rows: points(rows * 2, 3, trained=False).reshape(rows, 2, 3),
    "not contiguous": lambda rows: points(3, 2, trained=False).t(),
    "expanded": lambda rows: points(2, 3, trained=False).expand(rows, 2, 3),
}


@pytest.mark.parametrize("second", SECOND, ids=str)
@pytest.mark.parametrize("name", LINES)
def test_directions(name: str, second: Any) -> None:
    for net in ("sequential", "residual first", "linear", "many outputs"):
        for rows in (0, 1, 5):
            same(NETS[net]().double(), points(rows, 3), second, LINES[name](rows), orders=2)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str) -> None:
    """In float64 1e-12: sums of few numbers of size 1. Also as explicit columns of the hessian."""
    pairs = PAIRS[name]
    lines = points(3, 4, trained=False), points(3 * 5, 4, trained=False).reshape(5, 3, 4)
    for dtype in (torch.float64, torch.float32):
        for net, x, v in (
            (mlp(3, 5, 4, 2), points(5, 3, dtype), None),
            (mlp(4, 6, 1), points(5, 4, dtype), lines[0]),
            (mlp(4, 6, 5), points(5, 4, dtype), lines[1]),
            (NETS["residual first"](), points(0, 3, dtype), None),
            (NETS["two residual"](), points(2, 3, dtype), None),
            (OTHERS["layernorm"](), points(2, 3, dtype), None),
        ):
            v = None if v is None else v.to(dtype)
            same(net.to(dtype), x, pairs, v, double=1e-12)
            found = manualbp.derivatives(net, x, pairs, v)[2]
            whole = manualbp.derivatives(net, x, "hessian", v)[2]
            columns = torch.stack([whole[:, :, k, m] for k, m in pairs], 2)
            close([found], [columns], 1e-12)


@pytest.mark.usefixtures("in_python")
def test_only_what_is_asked_goes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four lines one second derivative for one pair, and no more for one that is asked twice."""
    seen: list[int] = []
    right = taylor.linear

    def linear(h: taylor.Jet, theta: Any) -> taylor.Jet:
        seen.append(0 if h.second is None else len(h.second))
        return right(h, theta)

    monkeypatch.setattr(taylor, "linear", linear)
    for pairs in ([(2, 2)], [(1, 3)], [(0, 1), (1, 0)], [(0, 0), (0, 1)]):
        seen.clear()
        manualbp.derivatives(mlp(4, 5, 5, 1), points(3, 4), pairs)
        count = len({frozenset(pair) for pair in pairs})
        assert seen == [0, count, count]


def test_axes_are_the_default() -> None:
    """Also what the words say of each: the laplacian is the trace, the hessian symmetric."""
    net, x = mlp(3, 5, 2), points(4, 3)
    hessian = manualbp.derivatives(net, x, "hessian", torch.eye(3, dtype=torch.float64))[2]
    plain = manualbp.derivatives(net, x, "hessian")[2]
    diagonal = plain.diagonal(dim1=2, dim2=3)
    torch.testing.assert_close(plain, hessian, rtol=0, atol=0)
    torch.testing.assert_close(plain, plain.transpose(2, 3), rtol=0, atol=0)
    torch.testing.assert_close(manualbp.derivatives(net, x, "diagonal")[2], diagonal)
    torch.testing.assert_close(manualbp.derivatives(net, x, "laplacian")[2], diagonal.sum(2))


def test_many_points() -> None:
    """More than a tile, and no whole number of tiles."""
    net = mlp(2, 128, 64, 1)
    for dtype, rows in ((torch.float64, 501), (torch.float32, 901)):
        for lines in (None, points(2 * rows, 2, dtype, trained=False).reshape(rows, 2, 2)):
            same(net.to(dtype), points(rows, 2, dtype), "laplacian", lines, orders=1)
    same(net, points(rows, 2, dtype), "hessian", orders=1)


@pytest.mark.parametrize("second", SECOND, ids=str)
@pytest.mark.parametrize(
    "act", [nn.Tanh, pytest.param(nn.GELU, marks=pytest.mark.slow)], ids=["Tanh", "GELU"]
)
def test_gradcheck(act: Any, second: Any) -> None:
    """By differences: first and second order over x and every parameter."""
    net = mlp(2, 3, 2, act=act)
    arm, names = ByHand(net, second), [name for name, _ in net.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> Any:
        other = mlp(2, 3, 2, act=act)
        for name, value in zip(names, values, strict=True):
            owner, _, leaf = name.partition(".")
            del other[int(owner)]._parameters[leaf]
            setattr(other[int(owner)], leaf, value)
        return manualbp.derivatives(other, x, second)

    inputs = (points(2, 2), *(p.detach().clone().requires_grad_() for p in arm.parameters()))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("second", SECOND, ids=str)
def test_one_gradient_at_a_time(second: Any) -> None:
    """A backward pass that asks for x alone, or for one parameter alone."""
    for dtype in (torch.float64, torch.float32):
        for outputs, lines in ((1, None), (4, None), (1, points(3, 3, dtype, trained=False))):
            net, x = mlp(3, 4, outputs).to(dtype), points(5, 3, dtype)
            for chosen in (x, *net.parameters()):
                found = [
                    torch.autograd.grad(
                        t.square().sum(), chosen, retain_graph=True, allow_unused=True
                    )[0]
                    for arm in (ByHand, Nested)
                    for t in arm(net, second, lines)(x)
                ]
                half = len(found) // 2
                for ours, theirs in zip(found[:half], found[half:], strict=True):
                    theirs = torch.zeros_like(chosen) if theirs is None else theirs
                    close([torch.zeros_like(chosen) if ours is None else ours], [theirs])


def test_third_and_fourth_derivatives() -> None:
    """Derivatives by x of what is returned, as often as one likes."""
    net, x, found = mlp(2, 4, 1), points(3, 2), []
    for arm in (ByHand, Nested):
        t = arm(net, "laplacian")(x)[2]
        for _ in range(3):
            (t,) = torch.autograd.grad(t.square().sum(), x, create_graph=True)
            found.append(t)
    close(found[:3], found[3:])
