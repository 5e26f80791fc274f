"""Faults planted into the interpreted kernels, each of which the judges of the other files see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import nn

from manualbp.fast.gpu.kernels import chain, errors, functions, linear, operators
from manualbp.maths import activations
from tests.fast.gpu.kernels.costs import TANH, network, wrong
from tests.fast.gpu.kernels.judged import interpreted
from tests.fast.gpu.kernels.test_linear import tensors, wrong_down, wrong_up

pytestmark = [pytest.mark.kernels, interpreted, pytest.mark.usefixtures("by_kernels", "filled")]

Patch = pytest.MonkeyPatch
LEAKY, GELU, ELU = activations.LeakyReLU(0.2), activations.GELU(), activations.ELU(0.5)
through, f, product, store = functions.through, functions.f, linear.product, linear.store
forward, input_gradient, step = linear.forward, linear.input_gradient, chain.step


@pytest.fixture
def filled(monkeypatch: Patch) -> None:
    """Memory that nothing is written to is NaN, not what happens to lie there."""
    new_empty = torch.Tensor.new_empty

    def nan(self: torch.Tensor, *size: Any, **kwargs: Any) -> torch.Tensor:
        found = new_empty(self, *size, **kwargs)
        return found.fill_(torch.nan) if found.is_floating_point() else found

    monkeypatch.setattr(torch.Tensor, "new_empty", nan)


def scaled(by: float, name: str) -> Callable[..., Any]:
    """f' too large for one activation alone."""

    def wrong(delta: Any, c: Any, F: Any, p: Any, q: Any) -> Any:
        return through(delta, c, F, p, q) * (by if name == F else 1.0)

    return wrong


def at_minus_one(delta: Any, c: Any, F: Any, p: Any, q: Any) -> Any:
    """f' of 1 below 0 in a small interval, as a kink at another place has it."""
    return tl.where((c < 0) & (c > -0.05), delta, through(delta, c, F, p, q))


def short_product(x, x_rows, xr, xc, X_ROWS, y, y_columns, yr, yc, Y_COLUMNS, total, K, *how):  # type: ignore[no-untyped-def]
    """Without the last term."""
    return product(x, x_rows, xr, xc, X_ROWS, y, y_columns, yr, yc, Y_COLUMNS, total, K - 1, *how)


def rounded_product(x, x_rows, xr, xc, X_ROWS, y, y_columns, yr, yc, Y_COLUMNS, total, K, *how):  # type: ignore[no-untyped-def]
    """Added up in float16 at the end."""
    found = product(x, x_rows, xr, xc, X_ROWS, y, y_columns, yr, yc, Y_COLUMNS, total, K, *how)
    return found.to(tl.float16).to(tl.float32)


def short_store(p, values, rows, columns, row_stride, R, C):  # type: ignore[no-untyped-def]
    """All rows but the last one."""
    store(p, values, rows, columns, row_stride, R - 1, C)


def no_bias(h, w, b, code, keep):  # type: ignore[no-untyped-def]
    return forward(h, w, None, code, keep)


def first_sums(delta, w, cache, code, sums):  # type: ignore[no-untyped-def]
    """The sums of all tiles but the last."""
    below, _ = input_gradient(delta, w, cache, code, sums)
    return below, below[:256].sum(0)


def z_for_a(h, w, b, code, keep):  # type: ignore[no-untyped-def]
    a, _ = forward(h, w, b, code, keep)
    return a, a


IN_LINEAR: dict[str, tuple[str, Any]] = {
    "f' too large": ("through", scaled(1.001, "gelu")),
    "f' of another kink": ("through", at_minus_one),
    "f too large": ("f", lambda z, F, p, q: f(z, F, p, q) * 1.001),
    "the last term": ("product", short_product),
    "low precision": ("product", rounded_product),
    "the last row": ("store", short_store),
    "the bias": ("forward", no_bias),
    "the sums of a tile": ("input_gradient", first_sums),
    "z is a": ("forward", z_for_a),
}


def judged(activation: activations.Activation) -> list[str]:
    h, w, b, delta, z = tensors((300, 37, 40), "cpu")
    return wrong_up(h, w, b, activation) + wrong_down(delta, w, z, activation)


@pytest.mark.parametrize("name", IN_LINEAR)
def test_faults_in_a_layer(name: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(linear, *IN_LINEAR[name])
    assert judged(GELU)


@pytest.mark.parametrize("activation", [LEAKY, ELU, TANH, GELU], ids=str)
def test_faults_in_one_activation(activation: activations.Activation, monkeypatch: Patch) -> None:
    """And the others are none the worse for them."""
    name = functions.code(activation).name
    monkeypatch.setattr(linear, "through", scaled(1.001, name))
    assert judged(activation) and judged(activations.SiLU()) == []


def changed(**differences: Callable[[Any], Any]) -> Callable[..., Any]:
    """A step with other sums."""

    def wrong(*args: Any) -> chain.StepSums:
        found = step(*args)
        return found._replace(**{k: change(getattr(found, k)) for k, change in differences.items()})

    return wrong


def on_fewer_rows(x: Any, y: Any, *args: Any) -> chain.StepSums:
    """A tile is forgotten, but for dC/dx."""
    return step(x[:-64], y[:-64], *args)._replace(input=step(x, y, *args).input)


def double_rows(x: Any, y: Any, *args: Any) -> chain.StepSums:
    """The first row once more at the end, as a mask that is off by one would add it."""
    more = (torch.cat([t, t[:1]]) for t in (x, y))
    return step(*more, *args)._replace(input=step(x, y, *args).input)


def large_delta(o: Any, y: Any, C: Any, p: Any) -> Any:
    cost, delta = errors.elementwise(o, y, C, p)
    return cost, delta * 1.01


IN_CHAIN: dict[str, tuple[Any, str, Any]] = {
    "a tile": (operators.chain, "step", on_fewer_rows),
    "a row twice": (operators.chain, "step", double_rows),
    "delta too large": (chain, "elementwise", large_delta),
    "f' too large": (chain, "through", scaled(1.001, "tanh")),
    "f' of another kink": (chain, "through", at_minus_one),
    "the last term": (chain, "product", short_product),
    "low precision": (chain, "product", rounded_product),
    "the last row": (chain, "store", short_store),
    "the cost": (chain, "step", changed(cost=lambda c: c * 1.0001)),
    "the biases": (chain, "step", changed(biases=lambda b: b * 1.0001)),
    "dC/dx": (chain, "step", changed(input=lambda g: g.roll(1, 0))),
    "the weights": (chain, "step", changed(weights=lambda w: w.roll(1))),
}


@pytest.mark.parametrize("name", IN_CHAIN)
def test_faults_in_a_net(name: str, monkeypatch: Patch) -> None:
    """Six tiles for four programs. Numbers show it: nothing is raised."""
    monkeypatch.setattr(*IN_CHAIN[name])
    found = wrong(network((5, 20, 9, 3)), nn.HuberLoss(), 330, "cpu")
    assert found and not any("raise" in reason for reason in found), found


def test_without_faults() -> None:
    assert judged(GELU) == wrong(network((5, 20, 9, 3)), nn.HuberLoss(), 330, "cpu") == []


def test_faults_in_a_loss(monkeypatch: Patch) -> None:
    """A class too few in the sum of the softmax, and the smoothing forgotten."""
    net, loss, right = network((5, 20, 3)), nn.CrossEntropyLoss(label_smoothing=0.1), errors
    cross_entropy = right.cross_entropy
    assert wrong(net, loss, 70, "cpu") == []
    for fault in (
        lambda o, y, columns, n, e: cross_entropy(o, y, columns, n - 1, e),
        lambda o, y, columns, n, e: cross_entropy(o, y, columns, n, 0.0),
    ):
        monkeypatch.setattr(chain, "cross_entropy", fault)
        assert wrong(net, loss, 70, "cpu")
