"""The recursion as plain functions: against autograd, with faults planted in it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from manualbp.maths import activations, backprop
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Cache, Elementwise, Layer, Linear, Needs, Theta

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


def from_output(cotangent: Tensor, built: list[Layer]) -> list[Tensor | None]:
    """C reads the output alone."""
    return [None] * (len(built) - 1) + [cotangent]


def worst_error(built: list[Layer], thetas: list[Theta], by: str) -> float:
    """Largest difference between the recursion and autograd, relative to each tensor's largest."""
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    needs = backprop.everything(thetas)
    output, caches = backprop.forward(x, built, thetas)
    cotangent = torch.randn_like(output)
    wanted = [x, *(t for theta in thetas for t in theta if t is not None)]
    expected = torch.autograd.grad(output, wanted, cotangent)
    with torch.no_grad():
        got = backprop.backward(from_output(cotangent, built), built, caches, needs, by)
    ours = [got.input, *(g for theta in got.thetas for g in theta)]
    if any(g is None for g in ours):
        return float("inf")
    return max(
        float((g - e).abs().max() / e.abs().max()) for g, e in zip(ours, expected, strict=True)
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exact_is_autograd_bit_for_bit(activation: str) -> None:
    assert worst_error(*chain(activation), "backward") == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_formula_is_autograd_to_rounding(activation: str) -> None:
    """1e-13: fp64, sums of at most 5 terms, 3 layers, f' within 8 ulp."""
    assert worst_error(*chain(activation), "formula") < 1e-13


def test_device_and_dtype_agnostic() -> None:
    """Meta tensors: shapes and dtypes flow through without a number."""
    weight = torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
    built, thetas = [Linear(), Elementwise(ACTIVATIONS["gelu"])], [(weight, None), ()]
    x = torch.empty(2, 5, 4, device="meta", dtype=torch.bfloat16)
    needs = backprop.everything(thetas)
    output, caches = backprop.forward(x, built, thetas)
    got = backprop.backward(from_output(output, built), built, caches, needs)
    assert got.input is not None and got.input.shape == x.shape
    assert got.thetas[0][0] is not None and got.thetas[0][0].dtype is torch.bfloat16
    assert got.thetas[0][1] is None


def test_needs_prune_the_loop() -> None:
    built, thetas = chain("tanh")
    needs = backprop.needs_of(False, [(False, False), (), (False, True), (), (True, False), ()])
    assert [need.h for need in needs] == [False, False, False, True, True, True]
    output, caches = backprop.forward(torch.randn(5, 4, dtype=torch.float64), built, thetas, needs)
    assert caches[0].tensors() == (None,) * 5 and caches[1].tensors() == (None,) * 2
    got = backprop.backward(from_output(output.cos(), built), built, caches, needs)
    assert got.input is None
    found = [[g is not None for g in theta] for theta in got.thetas if theta]
    assert found == [[False, False], [False, True], [True, False]]


def test_missing_cache_is_an_error() -> None:
    built, thetas = chain("tanh")
    output, caches = backprop.forward(torch.randn(5, 4, dtype=torch.float64), built, thetas)
    empty = [cache.emptied() for cache in caches]
    with pytest.raises(ValueError, match="run forward again"):
        backprop.backward(from_output(output, built), built, empty, backprop.everything(thetas))


# Faults, each planted into the linear layer's own backward.
Original = Callable[[Linear, Tensor, Cache, Needs], Theta]


def _missing_bias(original: Original) -> Original:
    def faulty(self, delta, cache, needs):  # type: ignore[no-untyped-def]
        h, weight, bias = original(self, delta, cache, needs)
        return h, weight, torch.zeros_like(bias)

    return faulty


def _transposed_weight(original: Original) -> Original:
    def faulty(self, delta, cache, needs):  # type: ignore[no-untyped-def]
        h, weight, bias = original(self, delta, cache, needs)
        return h, weight.t() if weight.shape[0] == weight.shape[1] else weight, bias

    return faulty


def _last_row_dropped(original: Original) -> Original:
    def faulty(self, delta, cache, needs):  # type: ignore[no-untyped-def]
        h, _, bias = original(self, delta, cache, needs)
        return h, delta[:-1].t().mm(cache.h[:-1]), bias

    return faulty


def _scaled(original: Original) -> Original:
    def faulty(self, delta, cache, needs):  # type: ignore[no-untyped-def]
        h, weight, bias = original(self, delta, cache, needs)
        return h, weight * (1 + 1e-9), bias

    return faulty


@pytest.mark.parametrize("fault", [_missing_bias, _transposed_weight, _last_row_dropped, _scaled])
def test_planted_fault_in_the_layer_is_caught(
    fault: Callable[[Original], Original], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Linear, "backward", fault(Linear.backward))
    assert worst_error(*chain("tanh"), "backward") > 1e-10
    assert worst_error(*chain("tanh"), "formula") > 1e-10


@pytest.mark.parametrize("activation", ["silu", "gelu", "softplus", "elu"])
def test_planted_derivative_at_a_is_caught(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f'(a) where f'(z) is right: the cache holds a."""
    monkeypatch.setattr(type(ACTIVATIONS[activation]), "needs", "a")
    assert worst_error(*chain(activation), "backward") > 1e-3


def test_planted_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations.Tanh, "derivative", lambda self, a: 1 - a)
    assert worst_error(*chain("tanh"), "formula") > 1e-3
