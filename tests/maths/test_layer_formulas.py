"""The layers as plain functions: formula against kernel, and both orders, with planted faults."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import manualbp
from manualbp.maths import layers
from manualbp.maths.layers import Dropout, Layer, Needs, RMSNorm, norms
from tests.maths.swept import SWEPT, around, by_hand, two


def alone(kind: str, shape: tuple[int, ...], train: bool = True) -> list[tuple[Layer, tuple]]:
    """Layers of a kind with random parameters, and the theta of each."""
    torch.manual_seed(0)
    found = []
    for module in SWEPT[kind](shape[1]).values():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data = torch.rand_like(tensor, dtype=torch.float64) + 0.5
        layer, theta = layers.from_module(module.train(train)) or (None, ())
        if layer is not None:
            found.append((layer, theta))
    return found


def worst(kind: str, shape: tuple[int, ...], train: bool) -> float:
    """Largest difference of the formula from the kernel, relative to each tensor's largest."""
    error = 0.0
    for layer, theta in alone(kind, shape, train):
        h, delta = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
        needs = Needs(True, tuple(t is not None for t in theta))
        with torch.no_grad():
            tape: list[Tensor | None] = []
            layer.forward(h, theta, needs, tape)
            assert len(tape) == layer.keeps
            found = []
            for by in ("formula", "kernel"):
                grads: list[Tensor | None] = []
                grad_h = layer.backward(delta, needs, list(tape), grads, by)
                found.append([grad_h, *grads])
            for a, b in zip(*found, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    error = max(error, float((a - b).abs().max() / b.abs().max()))
    return error


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", SWEPT)
def test_formula_is_backward_to_rounding(kind: str, train: bool) -> None:
    """1e-13: fp64, sums of at most 96 terms of order 1."""
    for shape in ((12, 8), (4, 8, 8)):
        assert worst(kind, shape, train) < 1e-13
    if kind in ("layernorm", "rmsnorm"):
        assert worst(kind, (3, 8, 2, 8), train) < 1e-13


def _without_xhat(delta, xhat, r, gamma, over, rows, needs, centred=True):  # type: ignore[no-untyped-def]
    g = delta if gamma is None else delta * gamma
    h = r * (g - g.mean(over, keepdim=True)) if over and centred else r * g
    wants_gamma, wants_beta = needs.theta
    return (
        h,
        (delta * xhat).sum(rows) if wants_gamma else None,
        delta.sum(rows) if wants_beta else None,
    )


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm", "batchnorm"])
def test_planted_missing_xhat_term_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "formula", _without_xhat)
    monkeypatch.setattr(layers.batch_norm, "formula", _without_xhat)
    with pytest.raises(AssertionError):
        test_formula_is_backward_to_rounding(kind, True)


@pytest.mark.parametrize("kind", ["layernorm", "batchnorm"])
def test_planted_missing_mean_term_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = norms.formula

    def without_mean(*args, centred=True):  # type: ignore[no-untyped-def]
        return right(*args, centred=False)

    monkeypatch.setattr(norms, "formula", without_mean)
    monkeypatch.setattr(layers.batch_norm, "formula", without_mean)
    with pytest.raises(AssertionError):
        test_formula_is_backward_to_rounding(kind, True)


@pytest.mark.parametrize("kind", SWEPT)
def test_gradcheck_of_both_orders(kind: str) -> None:
    """PyTorch's own tolerances, input and parameters; the same mask at every call."""
    for layer in two(kind):
        torch.manual_seed(0)
        model = manualbp.Residual(*around(layer)).double()
        x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        names, values = zip(*model.named_parameters(), strict=True)

        def function(x: Tensor, *parameters: Tensor, net=model, names=names) -> Tensor:
            torch.manual_seed(1)
            named = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(net, named, (x,))

        assert by_hand(function(x, *values))
        assert torch.autograd.gradcheck(function, (x, *values))
        assert torch.autograd.gradgradcheck(function, (x, *values))


def test_planted_constant_r_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm's r kept as a number: right at first order, wrong at the second."""
    right = RMSNorm.backward

    def constant(self, delta, needs, tape, grads, by, over):  # type: ignore[no-untyped-def]
        frozen, r = dataclasses.replace(self), tape[-1]
        object.__setattr__(frozen, "_r", lambda h: r)
        return right(frozen, delta, needs, tape, grads, by, over)

    monkeypatch.setattr(RMSNorm, "backward", constant)
    with pytest.raises(RuntimeError):  # GradcheckError is one
        test_gradcheck_of_both_orders("rmsnorm")


@pytest.mark.usefixtures("r_operator")
def test_dropout_in_an_r_operator() -> None:
    test_gradcheck_of_both_orders("dropout")


@pytest.mark.usefixtures("r_operator")
def test_planted_missing_dropout_tangent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dropout, "double_backward", lambda self, *args: (None, (None,)))
    with pytest.raises((RuntimeError, AssertionError)):
        test_gradcheck_of_both_orders("dropout")
