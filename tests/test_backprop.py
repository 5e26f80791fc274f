"""The recursion as plain functions: against autograd, with faults planted in it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from manualbp import activations, backprop
from manualbp.activations import ACTIVATIONS
from manualbp.backprop import Layer, Needs


def chain(activation: str, widths: tuple[int, ...] = (4, 4, 4, 3)) -> list[Layer]:
    """Square hidden weights, so that a transposed gradient has the right shape."""
    torch.manual_seed(0)
    return [
        Layer(
            torch.randn(o, i, dtype=torch.float64, requires_grad=True),
            torch.randn(o, dtype=torch.float64, requires_grad=True),
            ACTIVATIONS[activation],
        )
        for i, o in pairwise(widths)
    ]


def worst_error(layers: list[Layer], through: backprop.Through) -> float:
    """Largest difference between the recursion and autograd, relative to each tensor's largest."""
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    output, caches = backprop.forward(x, layers)
    cotangent = torch.randn_like(output)
    wanted = [x, *(t for layer in layers for t in (layer.weight, layer.bias) if t is not None)]
    expected = torch.autograd.grad(output, wanted, cotangent)
    with torch.no_grad():
        got = backprop.backward(cotangent, layers, caches, through=through)
    pairs = zip(got.weights, got.biases, strict=True)
    ours = [got.input, *(g for pair in pairs for g in pair)]
    if any(g is None for g in ours):
        return float("inf")
    return max(
        float((g - e).abs().max() / e.abs().max()) for g, e in zip(ours, expected, strict=True)
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exact_is_autograd_bit_for_bit(activation: str) -> None:
    assert worst_error(chain(activation), backprop.kernel) == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_formula_is_autograd_to_rounding(activation: str) -> None:
    """1e-13: fp64, sums of at most 5 terms, 3 layers, f' within 8 ulp."""
    assert worst_error(chain(activation), backprop.formula) < 1e-13


def test_device_and_dtype_agnostic() -> None:
    """Meta tensors: shapes and dtypes flow through without a number."""
    layers = [
        Layer(torch.empty(3, 4, device="meta", dtype=torch.bfloat16), None, ACTIVATIONS["gelu"])
    ]
    x = torch.empty(2, 5, 4, device="meta", dtype=torch.bfloat16)
    output, caches = backprop.forward(x, layers)
    got = backprop.backward(output, layers, caches)
    assert got.input is not None and got.input.shape == x.shape
    assert got.weights[0] is not None and got.weights[0].dtype is torch.bfloat16
    assert got.biases == [None]


def test_needs_prune_the_loop() -> None:
    layers = chain("tanh")
    x = torch.randn(5, 4, dtype=torch.float64)
    output, caches = backprop.forward(x, layers)
    needs = Needs(False, (False, False, True), (False, True, False))
    got = backprop.backward(torch.ones_like(output), layers, caches, needs)
    assert got.input is None and [w is not None for w in got.weights] == [False, False, True]
    assert [b is not None for b in got.biases] == [False, True, False]


def test_missing_cache_is_an_error() -> None:
    layers = chain("tanh")
    output, caches = backprop.forward(torch.randn(5, 4, dtype=torch.float64), layers)
    empty = [backprop.Cache(None, None, None, c.shape, False, True) for c in caches]
    with pytest.raises(ValueError, match="run forward again"):
        backprop.backward(output, layers, empty)


# Faults, each planted into the recursion itself: name, attribute, replacement of the original.
Original = Callable[..., tuple[Tensor | None, Tensor | None, Tensor | None]]


def _missing_bias(original: Original) -> Original:
    def faulty(*args, **kwargs):  # type: ignore[no-untyped-def]
        weight, bias, h = original(*args, **kwargs)
        return weight, None if bias is None else torch.zeros_like(bias), h

    return faulty


def _transposed_weight(original: Original) -> Original:
    def faulty(*args, **kwargs):  # type: ignore[no-untyped-def]
        weight, bias, h = original(*args, **kwargs)
        return weight.t() if weight.shape[0] == weight.shape[1] else weight, bias, h

    return faulty


def _last_row_dropped(original: Original) -> Original:
    def faulty(delta, cache, **kwargs):  # type: ignore[no-untyped-def]
        _, bias, h = original(delta, cache, **kwargs)
        return backprop.rows(delta)[:-1].t().mm(backprop.rows(cache.h)[:-1]), bias, h

    return faulty


def _scaled(original: Original) -> Original:
    def faulty(*args, **kwargs):  # type: ignore[no-untyped-def]
        weight, bias, h = original(*args, **kwargs)
        return weight * (1 + 1e-9), bias, h

    return faulty


@pytest.mark.parametrize("fault", [_missing_bias, _transposed_weight, _last_row_dropped, _scaled])
def test_planted_fault_in_the_layer_is_caught(
    fault: Callable[[Original], Original], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backprop, "layer_backward", fault(backprop.layer_backward))
    assert worst_error(chain("tanh"), backprop.kernel) > 1e-10
    assert worst_error(chain("tanh"), backprop.formula) > 1e-10


@pytest.mark.parametrize("activation", ["silu", "gelu", "softplus", "elu"])
def test_planted_derivative_at_a_is_caught(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f'(a) where f'(z) is right: the cache holds a."""
    monkeypatch.setattr(type(ACTIVATIONS[activation]), "needs", "a")
    assert worst_error(chain(activation), backprop.kernel) > 1e-3


def test_planted_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations.Tanh, "derivative", lambda self, a: 1 - a)
    assert worst_error(chain("tanh"), backprop.formula) > 1e-3
