"""The Function: derivatives of higher order, what is kept, and edits between the passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import manualbp
from manualbp.autograd import chain as function
from manualbp.maths import activations
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Elementwise, Linear
from tests.helpers import autograd_twin

SMOOTH = [a for a in ACTIVATIONS if a not in ("relu", "leaky_relu", "hardtanh")]


def test_r_operator_runs_where_it_is_faster() -> None:
    for activation, rows, node in (
        ("gelu_tanh", 2**13, "RecursionBackward"), ("gelu_tanh", 2**12, None), ("tanh", 2**13, None)
    ):  # fmt: skip
        model = manualbp.MLP((2, 8, 1), activation)
        x = torch.randn(rows, 2, requires_grad=True)
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        assert (type(g.grad_fn).__name__ == "RecursionBackward") == (node is not None)


def mlp(activation: str = "tanh", bias: bool = True) -> manualbp.MLP:
    torch.manual_seed(0)
    return manualbp.MLP((3, 4, 2), activation, "sigmoid", bias=bias, dtype=torch.float64)


@pytest.mark.usefixtures("second_order")
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


@pytest.mark.usefixtures("second_order")
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
    """Planted fault: what is kept taken for constants. The test above must see it."""
    recorded = function._recorded

    def constants(delta, steps, tape, injected):  # type: ignore[no-untyped-def]
        return recorded(delta, steps, [t if t is None else t.detach() for t in tape], injected)

    monkeypatch.setattr(function, "_recorded", constants)
    with pytest.raises((AssertionError, RuntimeError)):  # other numbers, or no graph at all
        test_third_order_like_autograd("tanh")


@pytest.mark.usefixtures("r_operator")
@pytest.mark.parametrize("owner", [Linear, Elementwise])
def test_planted_fault_in_the_second_order_is_caught(
    owner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing term of the R-operator: gradgradcheck must see it."""
    right = owner.double_backward

    def without_injection(self, *args):  # type: ignore[no-untyped-def]
        tangent, (_, *others) = right(self, *args)
        return tangent, (None, *others)

    monkeypatch.setattr(owner, "double_backward", without_injection)
    with pytest.raises(RuntimeError):  # GradcheckError is one
        test_gradcheck_of_both_orders("tanh")


@pytest.mark.usefixtures("second_order")
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
    """One Linear used three times: the gradients are added last layer first, bit-exact."""
    torch.manual_seed(0)
    linear = nn.Linear(16, 16)
    model = manualbp.Sequential(linear, nn.Tanh(), linear, nn.Tanh(), linear)
    first, tanh = copy.deepcopy(linear), nn.Tanh()
    twin = nn.Sequential(first, tanh, first, tanh, first)
    x = torch.randn(8, 16)
    for net in (model, twin):
        (net(x).sin().sum() + net[0].weight.pow(2).sum()).backward()
    assert torch.equal(linear.weight.grad, first.weight.grad)
    assert torch.equal(linear.bias.grad, first.bias.grad)


@pytest.mark.usefixtures("second_order")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_recorded_gradients_have_the_same_bits(activation: str, dtype: torch.dtype) -> None:
    """create_graph=True gives autograd's first derivatives, extreme cotangents included."""
    torch.manual_seed(0)
    model = manualbp.MLP((5, 7, 3), activation, activation, dtype=dtype)
    twin = autograd_twin(model)
    x = (3 * torch.randn(9, 5)).to(dtype).requires_grad_()
    cotangent = torch.randn(9, 3).to(dtype)
    cotangent[0], cotangent[1, 0] = torch.inf, torch.nan
    for g in (cotangent[2:], cotangent):
        found = [
            torch.autograd.grad(net(x)[9 - len(g) :], [x, *net.parameters()], g, create_graph=True)
            for net in (model, twin)
        ]
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))


@pytest.mark.usefixtures("second_order")
def test_piecewise_linear_second_order_is_zero_not_missing() -> None:
    """A gradient penalty leaves zeros where autograd leaves zeros."""
    torch.manual_seed(0)
    model = manualbp.MLP((3, 4, 1), "relu")
    for net in (model, autograd_twin(model)):
        x = torch.randn(5, 3, requires_grad=True)
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        g.pow(2).sum().backward()
        assert x.grad is not None and not x.grad.any()
        assert net[0].bias.grad is not None and not net[0].bias.grad.any()


@pytest.mark.usefixtures("second_order")
def test_recorded_backward_inside_autocast() -> None:
    """Bit-exact: the products of the backward pass are cast, the forward's activations are not."""
    torch.manual_seed(0)
    model = mlp().float()
    x = torch.randn(3, 3, requires_grad=True)
    found = []
    for net in (model, autograd_twin(model)):
        output = net(x).pow(2).sum()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(torch.autograd.grad(output, [x, *net.parameters()], create_graph=True))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.usefixtures("in_python")
def test_gradients_nobody_asks_for_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """dC/dx alone costs no dC/dW, as a physics-informed loss asks for it."""
    model, asked = mlp(), []
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    right = Linear.backward

    def spy(self, delta, needs, *args):  # type: ignore[no-untyped-def]
        asked.append(tuple(needs))
        return right(self, delta, needs, *args)

    monkeypatch.setattr(Linear, "backward", spy)
    torch.autograd.grad(model(x).sum(), x)
    torch.autograd.grad(model(x).sum(), model[2].weight)
    model(x).sum().backward(inputs=[model[0].bias])
    model(x).sum().backward()
    none, both = (False, False), (True, True)
    assert asked == [
        (True, none), (True, none),
        (False, (True, False)),
        (True, none), (False, (False, True)),
        (True, both), (True, both),
    ]  # fmt: skip


@pytest.mark.usefixtures("second_order")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_third_order_at_kinks(activation: str) -> None:
    """Like autograd's where a branch changes; fp64, 8 ulp of 2."""
    found = []
    for kind in (manualbp.Sequential, nn.Sequential):
        linear = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(linear.weight)
        net = kind(linear, activations.to_module(ACTIVATIONS[activation]))
        x = torch.tensor([[0.0], [-1.0], [1.0]], dtype=torch.float64, requires_grad=True)
        v = torch.ones_like(x, requires_grad=True)
        (g,) = torch.autograd.grad(net(x), x, v, create_graph=True)
        (gv,) = torch.autograd.grad(g, v, torch.ones_like(g), create_graph=True)
        found.append(torch.autograd.grad(gv.sum(), x, allow_unused=True)[0])
    if activation != "identity":  # f' = 1 carries no graph in either arm
        torch.testing.assert_close(*found, rtol=0, atol=16 * 2.3e-16)


@pytest.mark.usefixtures("second_order")
def test_recorded_backward_inside_transforms() -> None:
    """vmap and forward mode over a create_graph backward; fp64, relative 1e-12."""
    model = mlp("silu")
    twin = autograd_twin(model)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    vs = torch.randn(5, 4, 2, dtype=torch.float64)
    found = []
    for net in (model, twin):
        o = net(x)

        def pull(v: Tensor, o: Tensor = o) -> Tensor:
            return torch.autograd.grad(o, x, v, retain_graph=True, create_graph=True)[0]

        with forward_ad.dual_level():
            dual = pull(forward_ad.make_dual(vs[0], vs[1]))
            tangent = forward_ad.unpack_dual(dual).tangent
        found.append((torch.func.vmap(pull)(vs), tangent))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_batched_cotangents() -> None:
    """Bit-exact: is_grads_batched, as vectorized Jacobians use it."""
    model = mlp()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    cotangents = torch.randn(5, 4, 2, dtype=torch.float64)
    found = [
        torch.autograd.grad(net(x), [x, *net.parameters()], cotangents, is_grads_batched=True)
        for net in (model, autograd_twin(model))
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)  # batched products


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
