"""f, f' and the fused derivative of every activation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from manualbp.maths import activations
from manualbp.maths.activations import ACTIVATIONS, Activation

# Points on both sides of every kink and threshold, none on one.
Z = torch.tensor([-30.0, -8.1, -2.5, -1.3, -0.4, -1e-3, 1e-3, 0.4, 0.9, 1.3, 2.5, 8.1, 19.0, 30.0])

H = 1e-6  # step of the differences
ALL = [
    *ACTIVATIONS.values(), activations.LeakyReLU(0.2), activations.ELU(0.7),
    activations.Softplus(2.0, 5.3), activations.Hardtanh(-0.5, 2.0),
]  # fmt: skip


def cache_of(activation: Activation, z: torch.Tensor) -> torch.Tensor:
    return activation.f(z) if activation.needs == "a" else z


def slope(f: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """Central differences, fp64, step 1e-6: truncation 1e-12 and rounding 1e-10 on slopes of 1."""
    return (f(z + H) - f(z - H)) / (2 * H)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_formula_is_the_slope_of_f(activation: Activation) -> None:
    """1e-8: f(30) is 30, whose rounding of 4e-15 is divided by 2e-6."""
    z = Z.double()
    derivative = activation.derivative(cache_of(activation, z))
    torch.testing.assert_close(derivative, slope(activation.f, z), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ALL, ids=str)
def test_fused_kernel_is_the_formula(activation: Activation, dtype: torch.dtype) -> None:
    """delta * f' and the kernel round differently: 16 units in the last place of 1."""
    z = torch.cat([Z, torch.linspace(-6, 6, 1001)]).to(dtype)
    delta = torch.cos(7 * z)
    cache = cache_of(activation, z)
    formula = delta * activation.derivative(cache)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(activation.backward(delta, cache), formula, rtol=0, atol=16 * eps)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_kink_like_pytorch(activation: Activation) -> None:
    """At z = 0, and at +-1 for hardtanh, the formula takes PyTorch's side (8 ulp of 1)."""
    z = torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    activations.to_module(activation)(z).sum().backward()
    formula = activation.derivative(cache_of(activation, z.detach()))
    torch.testing.assert_close(formula, z.grad, rtol=0, atol=8 * 2.3e-16)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_forward_is_the_modules(activation: Activation) -> None:
    """Bit-exact: the same operator."""
    assert torch.equal(activation.f(Z), activations.to_module(activation)(Z))
    assert activations.from_module(activations.to_module(activation)) == activation


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_second_derivative_is_the_slope_of_the_first(activation: Activation) -> None:
    """In its own argument, by central differences as above."""
    x = cache_of(activation, Z.double())
    if isinstance(activation, activations.ReLU | activations.Hardtanh):
        x = x[x.abs() > H]  # a = 0 is the kink itself
    second = activation.second_derivative(x)
    expected = torch.zeros_like(x) if second is None else second
    torch.testing.assert_close(expected, slope(activation.derivative, x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("activation", ALL, ids=str)
def test_second_order_is_finite_far_from_zero(activation: Activation, dtype: torch.dtype) -> None:
    """The branch not taken, and the cubes of half precision, must not turn it into NaN."""
    z = torch.tensor([-1e4, -200.0, 200.0, 1e4], dtype=dtype)
    if dtype is torch.float32:
        z = torch.cat([z, torch.tensor([-1e15, 1e15])])
    one = torch.ones_like(z)
    for gradient in activation.double_backward(one, one, cache_of(activation, z)):
        assert gradient.dtype is dtype and torch.isfinite(gradient).all()


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_second_order_at_kinks_like_pytorch(activation: Activation) -> None:
    """8 ulp of 1."""
    threshold = getattr(activation, "threshold", 0.0) / getattr(activation, "beta", 1.0)
    z = torch.tensor([0.0, -1.0, 1.0, threshold], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(activations.to_module(activation)(z).sum(), z, create_graph=True)
    expected = torch.zeros_like(z)
    if first.requires_grad:
        (expected,) = torch.autograd.grad(first.sum(), z)
    one, cache = torch.ones_like(z), cache_of(activation, z.detach())
    _, for_cache = activation.double_backward(one, one, cache)
    if activation.needs == "a":  # the chain rule back to z
        for_cache = for_cache * activation.derivative(cache)
    torch.testing.assert_close(for_cache, expected, rtol=0, atol=8 * 2.3e-16)


def test_planted_fault_derivative_at_a_is_caught() -> None:
    """The slope test must see f'(a) where f'(z) is right, for every activation that needs z."""
    for activation in (a for a in ALL if a.needs == "z"):
        z = Z.double()
        wrong = activation.derivative(activation.f(z))
        if isinstance(activation, activations.Hardtanh | activations.LeakyReLU):
            continue  # f keeps the sign, or clips onto the kink: f'(f(z)) is mostly f'(z)
        assert (wrong - slope(activation.f, z)).abs().max() > 1e-3, activation


def test_parameters_may_be_tensors() -> None:
    assert activations.from_module(nn.LeakyReLU(torch.tensor(0.25))) == activations.LeakyReLU(0.25)


def test_unknown_name_lists_and_suggests() -> None:
    with pytest.raises(ValueError, match=r"one of identity, .* got 'rleu'; did you mean 'relu'\?"):
        activations.by_name("rleu")


def test_what_is_not_known_is_not_claimed() -> None:
    class Mine(nn.Tanh):
        pass

    bad = nn.GELU(approximate="Tanh")
    for module in (nn.ReLU6(), nn.Dropout(), Mine(), nn.Softmax(-1), bad):
        assert activations.from_module(module) is None


@pytest.mark.parametrize("name", ["elu", "selu"])
def test_third_order_is_finite_far_above_zero(name: str) -> None:
    """e^z of the branch not taken must not overflow."""
    z = torch.tensor([200.0], requires_grad=True)
    second = ACTIVATIONS[name].second_derivative(z)
    assert second is not None
    second.sum().backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_three_derivatives_are_autograds(activation: Activation) -> None:
    """f', f'' and f''' in float64, also at kinks and thresholds: 1e-13, roundings of numbers of 1.

    A third derivative is not compared on a kink, nor where PyTorch's is NaN: that of GELU's tanh
    form far from 0.
    """
    threshold = getattr(activation, "threshold", 0.0) / getattr(activation, "beta", 1.0)
    kinks = {0.0, -1.0, 1.0, -0.5, 2.0, threshold}
    z = torch.tensor([*Z.tolist(), *kinks], dtype=torch.float64, requires_grad=True)
    found = activation.derivatives(cache_of(activation, z.detach()))
    below = activations.to_module(activation)(z)
    for order, ours in enumerate(found):
        expected = torch.zeros_like(z)
        if below.requires_grad:
            (expected,) = torch.autograd.grad(below.sum(), z, create_graph=True)
        there = expected.detach().isfinite()
        assert there.all() or (order == 2 and isinstance(activation, activations.GELUTanh))
        there[len(Z) :] &= order < 2
        ours = torch.zeros_like(z) if ours is None else ours
        torch.testing.assert_close(ours[there], expected.detach()[there], rtol=0, atol=1e-13)
        below = expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ALL, ids=str)
def test_three_derivatives_are_finite_far_from_zero(
    activation: Activation, dtype: torch.dtype
) -> None:
    """Up to where z^3 still is a number."""
    z = torch.tensor([-1e12, -1e4, -200.0, -90.0, 90.0, 200.0, 1e4, 1e12], dtype=dtype)
    for slope in activation.derivatives(cache_of(activation, z)):
        assert slope is None or torch.isfinite(slope).all()
