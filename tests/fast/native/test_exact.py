"""A chain as one C++ node: nn.Sequential's bits, whatever the chain, the input and the pass."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast import native
from manualbp.maths import activations
from manualbp.maths.activations import ACTIVATIONS
from tests.helpers import differing, gradients, hand_twin

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")

OTHERS = {
    "leaky_relu": nn.LeakyReLU(0.3), "elu": nn.ELU(0.7), "softplus": nn.Softplus(2.0, 1.0),
    "hardtanh": nn.Hardtanh(-0.5, 0.2),
}  # fmt: skip
SHAPES = [(17, 5), (1, 5), (0, 5), (5,), (3, 7, 5), (2, 0, 5), (700, 5)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def net(activation: str, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    f = [OTHERS.get(activation) or activations.to_module(ACTIVATIONS[activation]) for _ in "12"]
    return nn.Sequential(nn.Linear(5, 8, bias), f[0], nn.Linear(8, 8), nn.Linear(8, 5), f[1]).to(
        dtype
    )


def is_native(o: Tensor) -> bool:
    """Whether a C++ node made it; Python's own can be watched."""
    try:
        weakref.ref(o.grad_fn)
    except TypeError:
        return type(o.grad_fn).__name__ == "ChainBackward"
    return False


def wrong(twin: nn.Sequential, x: Tensor, model: nn.Module | None = None) -> list[str]:
    """What differs in a bit, in the first call and in the one that a guard serves."""
    model = model or hand_twin(twin)
    found = []
    for _ in range(2):
        for each in (model, twin):
            each.zero_grad()
        assert is_native(model(x))
        found += differing(gradients(model, x), gradients(twin, x))
    return found


@pytest.mark.usefixtures("deltas")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bits(activation: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for wants_x in (True, False):
            x = torch.randn(shape).to(dtype).requires_grad_(wants_x)
            assert wrong(net(activation, dtype=dtype), x) == [], (shape, wants_x)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_layouts_and_no_bias(activation: str) -> None:
    for transposed in (False, True):
        twin = net(activation, bias=False)
        if transposed:
            twin[0].weight = nn.Parameter(torch.randn(5, 8).t())
        assert wrong(twin, torch.randn(5, 17).t().requires_grad_()) == []
        assert wrong(twin, torch.randn(17, 5).requires_grad_()) == []


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_frozen(activation: str) -> None:
    count = len(list(net(activation).parameters()))
    for mask in range(2**count - 1):
        twin = net(activation)
        for i, p in enumerate(twin.parameters()):
            p.requires_grad_(not mask >> i & 1)
        assert wrong(twin, torch.randn(9, 5)) == [], mask


def test_tied_weights() -> None:
    """Added up in autograd's order."""
    twin = net("tanh")
    twin[2] = nn.Linear(8, 8)
    twin[3] = nn.Linear(8, 8)
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    for each in (model, twin):
        each[3].weight = each[2].weight
    assert wrong(twin, torch.randn(9, 5), model) == []


class Skip(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_residual(activation: str) -> None:
    twin = Skip(*net(activation))
    model = manualbp.Residual(*copy.deepcopy(list(twin)))
    for wants_x in (True, False):
        assert wrong(twin, torch.randn(9, 5).requires_grad_(wants_x), model) == []


def orders(each: nn.Module, x: Tensor) -> list[Tensor]:
    """Three derivatives, by x and by every parameter."""
    wanted, found = [x, *each.parameters()], []
    value = each(x).square().sum()
    for _ in range(3):
        g = torch.autograd.grad(value, wanted, create_graph=True, materialize_grads=True)
        found += g
        value = sum((t.square().sum() for t in g), torch.zeros(()))
    return found


@pytest.mark.usefixtures("second_order")
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [f for f in ACTIVATIONS if f != "identity"])
def test_three_orders(activation: str, residual: bool) -> None:
    """The first bit-exact; the others in fp64 to 1e-10, through nested recursions."""
    plain = net(activation, dtype=torch.float64)
    twin = Skip(*plain) if residual else plain
    model = (manualbp.Residual if residual else manualbp.Sequential)(*copy.deepcopy(list(plain)))
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = orders(model, x), orders(twin, x)
    first = len(list(plain.parameters())) + 1
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert i >= first or torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * max(1.0, b.abs().max().item()))


def test_hooks_of_saved_tensors() -> None:
    """What they return is what backward reads; bit-exact."""
    twin = net("gelu")
    model, x = hand_twin(twin), torch.randn(9, 5, requires_grad=True)
    found = []
    for each in (model, twin):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t / 2):
            o = each(x)
        found.append(torch.autograd.grad(o.square().sum(), [x, *each.parameters()]))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


ERRORS: dict[str, Callable[[nn.Module, Tensor, Tensor], Any]] = {
    "twice": lambda model, x, o: o.sum().backward(),
    "weight in place": lambda model, x, o: model[3].weight.mul_(2),
    "input in place": lambda model, x, o: x.mul_(2),
    "output in place": lambda model, x, o: o.mul_(2),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_autograds(name: str) -> None:
    found = []
    for each in (hand_twin(net("tanh")), net("tanh")):
        x = torch.randn(9, 5)
        o = each(x)
        cost = o.square().sum()
        with torch.no_grad() if "place" in name else torch.enable_grad():
            ERRORS[name](each, x, o)
        try:
            cost.backward()
            found.append("")
        except RuntimeError as error:
            found.append(str(error).split("[", 1)[0])
    assert found[0] == found[1] != ""


def test_nothing_stays() -> None:
    """Neither x nor o, without the garbage collector; and a parameter that holds its model goes."""
    model, x = hand_twin(net("tanh")), torch.randn(9, 5, requires_grad=True)
    model(x)
    gc.collect()
    gc.disable()
    try:
        o = model(x)
        o.sum().backward(retain_graph=True)
        watched = [weakref.ref(t) for t in (x, o)]
        del x, o
        assert [w() for w in watched] == [None, None]
    finally:
        gc.enable()
    model[0].weight.model = model  # a circle, through the guard as well
    watched = [weakref.ref(model), weakref.ref(model[0].weight)]
    del model
    gc.collect()
    assert [w() for w in watched] == [None, None]


def test_planted_other_activation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from manualbp.fast.native import exact

    swapped = {**exact._NAMES, activations.ELU: "selu"}
    monkeypatch.setattr(exact, "_NAMES", swapped)
    assert wrong(net("elu"), torch.randn(9, 5))
