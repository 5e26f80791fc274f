"""The Function: derivatives of higher order, what is kept, and edits between the passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.activations import ACTIVATIONS
from tests.helpers import autograd_twin

SMOOTH = [a for a in ACTIVATIONS if a not in ("relu", "leaky_relu", "hardtanh")]


def mlp(activation: str = "tanh", bias: bool = True) -> manualbp.MLP:
    torch.manual_seed(0)
    return manualbp.MLP((3, 4, 2), activation, "sigmoid", bias=bias, dtype=torch.float64)


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradcheck_of_both_orders(activation: str) -> None:
    """PyTorch's own tolerances; with respect to the input and all parameters."""
    model = mlp(activation)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    names, values = zip(*model.named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, named, (x,))

    assert type(function(x, *values).grad_fn).__name__ == "ChainBackward"
    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values))


def derivatives(model: nn.Module, x: Tensor, order: int) -> list[Tensor]:
    """Derivatives of sum(o) by x, order by order, then of the last one by the parameters."""
    x = x.detach().requires_grad_()
    value, found = model(x).sum(), []
    for _ in range(order):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(gradient.detach())
        value = gradient.pow(2).sum()
    value.backward()
    return found + [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_third_order_like_autograd(activation: str) -> None:
    """fp64, relative 1e-9: three nested recursions of formulas that agree to 8 ulp."""
    model = mlp(activation)
    twin = autograd_twin(model)
    x = torch.randn(5, 3, dtype=torch.float64)
    order = 2 if activation in SMOOTH else 1  # piecewise linear: order 2 of the sigmoid
    results = (derivatives(net, x, order) for net in (model, twin))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_saved_activations_alone_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: the recorded backward on saved activations. The test above must see it."""
    from manualbp import backprop, function

    monkeypatch.setattr(
        function,
        "_recorded_backward",
        lambda ctx, g, caches: backprop.backward(g, ctx.layers, caches, ctx.needs, exact=False),
    )
    with pytest.raises(AssertionError):
        test_third_order_like_autograd("tanh")


def saved_by(model: nn.Module, x: Tensor) -> int:
    """Bytes of distinct storages that a forward pass keeps for backward."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    del output
    return sum(storages.values())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("wants_x", [True, False])
def test_keeps_no_more_than_autograd(activation: str, wants_x: bool) -> None:
    torch.manual_seed(0)
    model = manualbp.MLP((8, 16, 16, 4), activation)
    x = torch.randn(32, 8, requires_grad=wants_x)
    assert saved_by(model, x) <= saved_by(autograd_twin(model), x)


@pytest.mark.parametrize(
    "frozen", ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
)
@pytest.mark.parametrize("wants_x", [True, False])
def test_frozen_parameters(frozen: str, wants_x: bool) -> None:
    """None where autograd has none; bit-exact elsewhere; the second order as well."""
    torch.manual_seed(0)
    model = manualbp.MLP((3, 4, 4, 2), "silu", dtype=torch.float64)
    model.get_parameter(frozen).requires_grad_(False)
    twin = autograd_twin(model)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=wants_x)
    results = []
    for net in (model, twin):
        wanted = [p for p in (x, *net.parameters()) if p.requires_grad]
        exact = torch.autograd.grad(net(x).pow(2).sum(), wanted)
        first = torch.autograd.grad(net(x).pow(2).sum(), wanted, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), wanted)
        results.append((exact, second))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)  # as in the third order above


def test_tied_layers() -> None:
    """One Linear used twice: the two gradients are added, bit-exact."""
    torch.manual_seed(0)
    linear = nn.Linear(4, 4)
    model = manualbp.Sequential(linear, nn.Tanh(), linear)
    twin = nn.Sequential(copy.deepcopy(linear), nn.Tanh())
    twin.append(twin[0])
    x = torch.randn(3, 4)
    for net in (model, twin):
        net(x).sum().backward()
    assert torch.equal(linear.weight.grad, twin[0].weight.grad)


@pytest.mark.parametrize("index", [2, 4])
def test_editing_a_weight_before_backward_raises(index: int) -> None:
    """As autograd, in autograd's words: for a weight that dC/dh of its layer needs."""
    for net in (model := manualbp.MLP((3, 4, 4, 2)), autograd_twin(model)):
        output = net(torch.randn(5, 3)).sum()
        with torch.no_grad():
            net[index].weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.backward()


def test_editing_a_bias_before_backward_is_allowed() -> None:
    """As autograd: no first derivative reads a bias. The second order would, so it raises."""
    torch.manual_seed(0)
    model = manualbp.MLP((3, 4, 2), "tanh")
    twin = autograd_twin(model)
    x = torch.randn(5, 3, requires_grad=True)
    for net in (model, twin):
        output = net(x).sum()
        with torch.no_grad():
            net[0].bias.add_(1)
        output.backward()
    assert torch.equal(model[0].weight.grad, twin[0].weight.grad)
    output = model(x).sum()
    with torch.no_grad():
        model[0].bias.add_(1)
    with pytest.raises(RuntimeError, match="bias changed between forward and a backward"):
        torch.autograd.grad(output, x, create_graph=True)


def test_backward_twice_raises_as_autograd() -> None:
    output = manualbp.MLP((3, 4, 2))(torch.randn(5, 3)).sum()
    output.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.backward()


def test_undefined_cotangent_gives_no_gradients() -> None:
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x.clone()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            return None

    for net in (manualbp.MLP((3, 4, 2)), nn.Sequential(nn.Linear(3, 2))):
        Cut.apply(net(torch.randn(5, 3))).sum().backward()
        assert all(p.grad is None for p in net.parameters())
