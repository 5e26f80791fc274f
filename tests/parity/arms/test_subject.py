"""An arm as a Subject: what it may be, and the names of its parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients
from manualbp.parity.arms.subject import subject


class Named(nn.Module):
    """nn.Linear with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.t() + self.b


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


NAMES = {"w": "weight", "b": "bias"}
X = torch.arange(6.0).reshape(2, 3)


# What an arm may be.


def test_a_module() -> None:
    module = nn.Linear(3, 2)
    arm = subject(module)
    assert arm.name == "Linear" and arm.module is module
    assert list(arm.parameters) == ["weight", "bias"] and arm.parameters["bias"] is module.bias


def test_a_function_and_a_class_of_functions() -> None:
    for arm, name in ((torch.tanh, "tanh"), (Double, "Double"), (nn.ReLU().forward, "forward")):
        found = subject(arm)
        assert found.name == name and found.module is None and found.parameters == {}
    assert torch.equal(subject(Double).call(X), X * 2)


@pytest.mark.parametrize("arm", [nn.Linear, 3, None, "linear", int])
def test_nothing_to_call(arm: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a module, .* got .*must be called first"):
        subject(arm)


def test_compiled_names() -> None:
    """torch.compile's wrapper puts _orig_mod before every name."""
    module = nn.Sequential(nn.Linear(3, 2))
    wrapped = nn.Module()
    wrapped._orig_mod = module
    assert list(subject(wrapped).parameters) == ["0.weight", "0.bias"]
    for name in ("0.weight", "_orig_mod.0.weight"):
        assert list(subject(wrapped, {name: "w"}).parameters) == ["w", "0.bias"]


# Names.


def test_a_parameter_map_renames() -> None:
    module = Named()
    arm = subject(module, NAMES)
    assert list(arm.parameters) == ["weight", "bias"] and arm.parameters["weight"] is module.w
    assert arm.own == {"weight": "w", "bias": "b"}
    twin = arm.copy(torch.float64)
    assert list(twin.parameters) == ["weight", "bias"]
    assert twin.parameters["weight"].dtype is torch.float64 and module.w.dtype is torch.float32


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"weight": "w"}, "got 'weight'; it has w, b"),
        ({"w": "b"}, "gives every parameter a name of its own"),
        ({"w": "x", "b": "x"}, r"a name of its own, got \['x', 'x'\]"),
    ],
)
def test_a_wrong_parameter_map(names: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        subject(Named(), names)


def test_a_function_has_no_names() -> None:
    with pytest.raises(ValueError, match="expected a module with the parameter map"):
        subject(torch.tanh, NAMES)


def test_a_subject_copies_and_loads() -> None:
    module = nn.BatchNorm1d(3).eval()
    twin = subject(module).copy(torch.float64)
    module(X)
    with torch.no_grad():
        module.weight.add_(1)
        module.running_mean.add_(2)
    twin.load(subject(module))
    assert twin.module is not None and not twin.module.training
    assert torch.equal(twin.parameters["weight"].float(), module.weight)
    assert torch.equal(dict(twin.module.named_buffers())["running_mean"].float(),
                       module.running_mean)  # fmt: skip


def test_a_module_that_cannot_be_copied() -> None:
    module = nn.Linear(3, 2)
    module.kept = module(X)  # inside a graph
    with pytest.raises(ValueError, match="expected a reference that can be copied, got Linear"):
        subject(module).copy()


def test_a_complex_buffer_keeps_its_imaginary_part() -> None:
    """``module.to(float64)`` would drop it: a rotary embedding would be none."""

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("turn", torch.polar(torch.ones(2), torch.tensor([0.5, 1.0])))
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            pairs = torch.view_as_complex((x * self.weight).reshape(-1, 2, 2))
            return torch.view_as_real(pairs * self.turn).flatten(1)

    module = Rotary()
    turn = module.turn
    for dtype, expected in ((torch.float64, torch.complex128), (torch.bfloat16, torch.complex64)):
        copied = subject(module).copy(dtype).buffers["turn"]
        assert copied.dtype == expected and torch.equal(copied.to(turn.dtype), turn)
    assert module.turn is turn
    assert compare_gradients(copy.deepcopy(module), module, torch.randn(3, 4)).agrees
