"""Fast mode: held by float64; whole batches as exact mode runs them; and who is in which mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp import fast
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Linear
from tests.dropin.nets import unequal
from tests.helpers import autograd_twin

SHAPES = [(4096, 64), (8, 512, 64), (1, 64), (0, 64), (64,)]


def pair(widths: tuple[int, ...], activation: str = "relu", **options: Any) -> tuple[Any, Any]:
    """Ours in fast mode, and PyTorch's own."""
    torch.manual_seed(0)
    model = manualbp.MLP(widths, activation, **options)
    manualbp.set_mode("fast", model)
    return model, autograd_twin(model)


def gradients(net: nn.Module, x: Tensor, g: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output = net(x)
    return [output.detach(), *torch.autograd.grad(output, [x, *net.parameters()], g)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_against_float64(activation: str, shape: tuple[int, ...]) -> None:
    """At most 1.5 times autograd's own distance, root mean square, and half an ulp of the size."""
    model, twin = pair((64, 128, 128, 16), activation)
    double = copy.deepcopy(twin).double()
    x, g = torch.randn(shape), torch.randn(*shape[:-1], 16)
    exact = gradients(double, x.double(), g.double())
    for ours, theirs, e in zip(gradients(model, x, g), gradients(twin, x, g), exact, strict=True):
        errors = [float((t.double() - e).norm()) for t in (ours, theirs)]
        assert errors[0] <= 1.5 * errors[1] + 6e-8 * float(e.norm())
        assert ours.shape == e.shape and torch.isfinite(ours).all()


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
def test_nan_and_infinity_where_autograd_has_them(activation: str) -> None:
    model, twin = pair((64, 128, 16), activation)
    x, g = torch.randn(2048, 64), torch.randn(2048, 16)
    x[0, 0], x[1, 0], x[2, 0], x[3] = torch.inf, torch.nan, 1e38, 1e-42
    for ours, theirs in zip(gradients(model, x, g), gradients(twin, x, g), strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "silu"])
def test_second_order(activation: str) -> None:
    """fp64, where fast and exact are the same products: relative 1e-12."""
    model, twin = pair((6, 16, 16, 1), activation, dtype=torch.float64)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for net in (model, twin):
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(g.pow(2).sum(), list(net.parameters())[:-1]))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_backward_inside_autocast() -> None:
    """Products of bfloat16, as autograd's are then: relative 3 % of each tensor's norm."""
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 16))
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    manualbp.set_mode("fast", model)
    x, found = torch.randn(2048, 64, requires_grad=True), []
    for net in (model, twin):
        output = net(x).square().sum()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(torch.autograd.grad(output, [x, *net.parameters()]))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype is theirs.dtype and (ours - theirs).norm() < 0.03 * theirs.norm()


def runs_fast(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> bool:
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(fast, "run", lambda *args: seen.append(1))
        model(torch.randn(3, 4))
    return bool(seen)


@pytest.mark.usefixtures("in_python")
def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the process, for a while, for a model; copies and files keep a model's mode."""
    model, other = manualbp.MLP((4, 4, 2)), manualbp.MLP((4, 4, 2))
    assert not runs_fast(model, monkeypatch)
    with manualbp.set_mode("fast"):
        assert runs_fast(model, monkeypatch)
        with manualbp.set_mode("exact"):
            assert not runs_fast(model, monkeypatch)
        manualbp.set_mode("exact", other)
        assert runs_fast(model, monkeypatch) and not runs_fast(other, monkeypatch)
    assert not runs_fast(model, monkeypatch)
    manualbp.set_mode("fast", model)
    assert runs_fast(copy.deepcopy(model), monkeypatch) and not runs_fast(other, monkeypatch)
    with pytest.raises(ValueError, match="mode must be one of exact, fast, got 'fastest'"):
        manualbp.set_mode("fastest")
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got list"):
        manualbp.set_mode("fast", [model])
    assert manualbp.set_mode.now == "exact"


@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_whole_batches_are_exact_modes(activation: str, shape: tuple[int, ...]) -> None:
    """Bit-exact, of every size that is not tiled: the same layers, and laid out as there."""
    model, twin = pair((64, 128, 16), activation)
    for net in (model, twin):
        net[2].weight = nn.Parameter(net[2].weight.detach().t().contiguous().t())
    x, g = torch.randn(shape), torch.randn(*shape[:-1], 16)
    assert type(model(x).grad_fn).__name__ == "ChainBackward"
    assert unequal(gradients(model, x, g), gradients(twin, x, g)) == ""


@pytest.mark.usefixtures("in_python")
def test_long_batches_are_tiled() -> None:
    """By their shape alone."""
    model, _ = pair((64, 64, 1))
    for rows, node in ((2**14, "Chain"), (2**15, "Recomputed"), (2**15 - 1, "Chain")):
        assert type(model(torch.randn(rows, 64)).grad_fn).__name__ == f"{node}Backward"


def test_the_same_bits_every_time() -> None:
    """Bit-exact, in tiles too: nothing depends on what ran before."""
    for rows in (100, 2**15):
        x, g = torch.randn(rows, 64), torch.randn(rows, 16)
        first, again = (gradients(pair((64, 128, 16))[0], x, g) for _ in range(2))
        assert unequal(first, again) == ""


@pytest.mark.usefixtures("in_python")
def test_planted_low_precision_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of bfloat16: the comparison with float64 must see them."""
    right = Linear.backward

    def wrong(self, delta, *rest):  # type: ignore[no-untyped-def]
        return right(self, delta.bfloat16().float(), *rest)

    monkeypatch.setattr(Linear, "backward", wrong)
    with pytest.raises(AssertionError):
        test_error_against_float64("tanh", (4096, 64))
