"""The recursion as plain functions: against autograd, with faults planted in it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from manualbp.maths import activations, backprop
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Elementwise, Layer, Linear, Theta
from tests.dropin.nets import unequal

Chain = tuple[list[Layer], list[Theta]]


def chain(activation: str, widths: tuple[int, ...] = (4, 4, 4, 3)) -> Chain:
    """Square hidden weights, so that a transposed gradient has the right shape."""
    torch.manual_seed(0)
    built: list[Layer] = []
    thetas: list[Theta] = []
    for i, o in pairwise(widths):
        weight, bias = torch.randn(o, i, dtype=torch.float64), torch.randn(o, dtype=torch.float64)
        built += [Linear(), Elementwise(ACTIVATIONS[activation])]
        thetas += [(weight.requires_grad_(), bias.requires_grad_()), ()]
    return built, thetas


def worst_error(built: list[Layer], thetas: list[Theta], by: str) -> float:
    """Largest difference between the recursion and autograd, relative to each tensor's largest."""
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    steps = backprop.steps(built, thetas)
    output, tape = backprop.forward(x, steps)
    cotangent = torch.randn_like(output)
    wanted = [x, *backprop.flat(built, thetas)]
    expected = torch.autograd.grad(output, wanted, cotangent)
    with torch.no_grad():
        got = backprop.backward(cotangent, steps, tape, by)
    assert tape == []
    ours = [got.input, *got.thetas]
    if any(g is None for g in ours):
        return float("inf")
    return max(
        float((g - e).abs().max() / e.abs().max()) for g, e in zip(ours, expected, strict=True)
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exact_is_autograd_bit_for_bit(activation: str) -> None:
    assert worst_error(*chain(activation), "kernel") == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_formula_is_autograd_to_rounding(activation: str) -> None:
    """1e-13: fp64, sums of at most 5 terms, 3 layers, f' within 8 ulp."""
    assert worst_error(*chain(activation), "formula") < 1e-13


def test_device_and_dtype_agnostic() -> None:
    """Meta tensors: shapes and dtypes flow through without a number."""
    weight = torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
    built, thetas = [Linear(), Elementwise(ACTIVATIONS["gelu"])], [(weight, None), ()]
    x = torch.empty(2, 5, 4, device="meta", dtype=torch.bfloat16)
    steps = backprop.steps(built, thetas)
    output, tape = backprop.forward(x, steps)
    got = backprop.backward(output, steps, tape)
    assert got.input is not None and got.input.shape == x.shape
    bias, grad_weight = got.thetas
    assert grad_weight is not None and grad_weight.dtype is torch.bfloat16
    assert bias is None


def test_needs_prune_the_loop() -> None:
    built, thetas = chain("tanh")
    wanted = [(False, False), (), (False, True), (), (True, False), ()]
    steps = backprop.steps(built, thetas, wanted, input=False)
    assert [step.needs.h for step in steps] == [False, False, False, True, True, True]
    output, tape = backprop.forward(torch.randn(5, 4, dtype=torch.float64), steps)
    assert tape[:3] == [None] * 3  # what the first Linear and its activation keep
    got = backprop.backward(output.cos(), steps, tape)
    assert got.input is None
    by_layer = backprop.by_layer(built, got.thetas)
    found = [[g is not None for g in theta] for theta in by_layer if theta]
    assert found == [[False, False], [False, True], [True, False]]


def test_an_empty_tape_is_an_error() -> None:
    built, thetas = chain("tanh")
    x = torch.randn(5, 4, dtype=torch.float64)
    output, tape = backprop.forward(x, backprop.without_gradients(built, thetas))
    assert tape == [None] * sum(layer.keeps for layer in built)
    for by in ("kernel", "formula"):
        with pytest.raises(ValueError, match="run it again for these needs"):
            backprop.backward(output, backprop.steps(built, thetas), list(tape), by)


def over_differs(activation: str) -> list[str]:
    """Where writing over deltas gives other bits, or changes what the caller handed in."""
    built, thetas = chain(activation)
    steps, wrong = backprop.steps(built, thetas), []
    g, other = torch.randn(2, 5, 3, dtype=torch.float64)
    hidden = torch.randn(5, 4, dtype=torch.float64)
    for case, delta, injected in (
        ("output", g, {}), ("output and below", g, {3: hidden}), ("below", None, {3: hidden}),
        ("output alone injected", None, {5: g}), ("output twice", g, {5: other}),
    ):  # fmt: skip
        given = {"delta": delta, **{f"injected {i}": t for i, t in injected.items()}}
        before = {name: t if t is None else t.clone() for name, t in given.items()}
        with torch.no_grad():
            _, tape = backprop.forward(torch.randn(5, 4, dtype=torch.float64), steps)
            found = [
                backprop.backward(delta, steps, list(tape), "kernel", over, injected)
                for over in (True, False)
            ]
        for name, t in given.items():
            if t is not None and not torch.equal(t, before[name]):
                wrong.append(f"{case}: {name}")
        written, fresh = ([got.input, *got.thetas] for got in found)
        if different := unequal(written, fresh):
            wrong.append(f"{case}: {different}")
    return wrong


@pytest.mark.usefixtures("written_over")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_deltas_of_its_own_are_written_over(activation: str) -> None:
    """Bit-exact, and what came from outside is as it was."""
    assert over_differs(activation) == []


@pytest.mark.usefixtures("written_over")
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_planted_writing_over_what_came_in_is_caught(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Elementwise.backward

    def always(self, delta, needs, tape, grads, by, over):  # type: ignore[no-untyped-def]
        return right(self, delta, needs, tape, grads, by, True)

    monkeypatch.setattr(Elementwise, "backward", always)
    wrong = over_differs(activation)
    assert "output: delta" in wrong and "below: injected 3" in wrong


# Faults, each planted into the linear layer's own backward.
Fault = Callable[[Tensor, Tensor, list[Tensor]], None]  # delta, h, [..., dC/db, dC/dW]


def _missing_bias(delta: Tensor, h: Tensor, grads: list[Tensor]) -> None:
    grads[-2] = torch.zeros_like(grads[-2])


def _transposed_weight(delta: Tensor, h: Tensor, grads: list[Tensor]) -> None:
    if grads[-1].shape[0] == grads[-1].shape[1]:
        grads[-1] = grads[-1].t()


def _last_row_dropped(delta: Tensor, h: Tensor, grads: list[Tensor]) -> None:
    grads[-1] = delta[:-1].t().mm(h[:-1])


def _scaled(delta: Tensor, h: Tensor, grads: list[Tensor]) -> None:
    grads[-1] = grads[-1] * (1 + 1e-9)


@pytest.mark.parametrize("fault", [_missing_bias, _transposed_weight, _last_row_dropped, _scaled])
def test_planted_fault_in_the_layer_is_caught(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Linear.backward

    def faulty(self, delta, needs, tape, grads, *how):  # type: ignore[no-untyped-def]
        h = tape[-2]
        grad_h = right(self, delta, needs, tape, grads, *how)
        fault(delta, h, grads)
        return grad_h

    monkeypatch.setattr(Linear, "backward", faulty)
    assert worst_error(*chain("tanh"), "kernel") > 1e-10
    assert worst_error(*chain("tanh"), "formula") > 1e-10


@pytest.mark.parametrize("activation", ["silu", "gelu", "softplus", "elu"])
def test_planted_derivative_at_a_is_caught(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f'(a) where f'(z) is right: the tape holds a."""
    monkeypatch.setattr(type(ACTIVATIONS[activation]), "needs", "a")
    assert worst_error(*chain(activation), "kernel") > 1e-3


def test_planted_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations.Tanh, "derivative", lambda self, a: 1 - a)
    assert worst_error(*chain("tanh"), "formula") > 1e-3


def test_an_identity_on_top_leaves_the_callers_delta() -> None:
    """It returns delta itself, which the layer below must not write over."""
    f = [Elementwise(ACTIVATIONS[name]) for name in ("tanh", "identity")]
    steps, x = backprop.steps(f, [(), ()]), torch.randn(128, 64)
    output, tape = backprop.forward(x, steps)
    cotangent = torch.randn_like(output)
    before = cotangent.clone()
    got = backprop.backward(cotangent, steps, tape, over=True)
    assert torch.equal(cotangent, before)
    assert got.input is not None and torch.equal(
        got.input, f[0].activation.backward(before, output)
    )
