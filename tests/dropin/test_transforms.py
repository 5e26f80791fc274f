"""Function transforms, forward mode, higher orders: what nn.Sequential gives, ours gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.functional as classic
from torch import Tensor, func, nn
from torch.autograd import forward_ad

import manualbp
from manualbp.autograd.chain import Chain
from manualbp.maths.activations import Tanh
from manualbp.maths.layers import Linear
from tests.dropin.nets import NAMES, is_by_hand, pair, rows, unequal

# fp64: second and third orders come from formulas that agree to a few units in the last place,
# and are summed in another order.
ROUNDING = 1e-13
Net = nn.Module


def scalar(net: Net) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x).pow(3).sum()


def at(net: Net, x: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    """The output as a function of the parameters."""
    return lambda parameters: func.functional_call(net, parameters, (x,))


def named(net: Net) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in net.named_parameters()}


def per_sample(net: Net, x: Tensor) -> Any:
    def cost(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return at(net, row[None])(parameters).pow(2).sum()

    return func.vmap(func.grad(cost), (None, 0), randomness="same")(named(net), x)


def dual_input(net: Net, x: Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(net(forward_ad.make_dual(x, x.sin())))


def dual_parameters(net: Net, x: Tensor) -> Any:
    with forward_ad.dual_level():
        duals = {k: forward_ad.make_dual(p, p.sin()) for k, p in named(net).items()}
        return forward_ad.unpack_dual(at(net, x)(duals)).tangent


def forward_over_reverse(net: Net, x: Tensor) -> Any:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach().requires_grad_(), x.sin())
        (g,) = torch.autograd.grad(net(dual).pow(2).sum(), dual, create_graph=True)
        return forward_ad.unpack_dual(g).tangent


# They leave no choice what random numbers are in a batched forward, so PyTorch refuses dropout.
NO_RANDOMNESS = ("hessian", "forward-mode jacobian")


def prepared(net: Net, transform: str) -> Net:
    """With running statistics, since one row has no variance; without dropout where refused."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d) or transform in NO_RANDOMNESS:
            module.eval()
    return net


FALLEN_BACK: dict[str, Callable[[Net, Tensor], Any]] = {
    "grad": lambda net, x: func.grad(scalar(net))(x),
    "grad of parameters": lambda net, x: func.grad(lambda p: at(net, x)(p).sum())(named(net)),
    "grad_and_value": lambda net, x: func.grad_and_value(scalar(net))(x),
    "vjp": lambda net, x: func.vjp(net, x)[1](x),
    "jvp": lambda net, x: func.jvp(net, (x,), (x.sin(),)),
    "vmap": lambda net, x: func.vmap(net, randomness="same")(x.expand(3, *x.shape)),
    "vmap of grad": per_sample,
    "jacrev": lambda net, x: func.jacrev(net)(x),
    "jacfwd": lambda net, x: func.jacfwd(net, randomness="same")(x),
    "jacfwd of jacrev": lambda net, x: func.jacfwd(func.jacrev(net), randomness="same")(x[:2]),
    "jacrev of jacfwd": lambda net, x: func.jacrev(func.jacfwd(net, randomness="same"))(x[:2]),
    "jacrev of parameters": lambda net, x: func.jacrev(at(net, x))(named(net)),
    "hessian": lambda net, x: func.hessian(scalar(net))(x[:2]),
    "dual input": dual_input,
    "dual parameters": dual_parameters,
    "forward over reverse": forward_over_reverse,
    "forward-mode jacobian": lambda net, x: classic.jacobian(
        net, x, vectorize=True, strategy="forward-mode"
    ),
}


def both(name: str, transform: str, function: Callable[[Net, Tensor], Any]) -> list[Any]:
    found = []
    for net in pair(name):
        torch.manual_seed(2)
        found.append(function(prepared(net, transform), rows()))
    return found


@pytest.mark.parametrize("transform", FALLEN_BACK)
@pytest.mark.parametrize("name", NAMES)
def test_fallen_back(name: str, transform: str) -> None:
    """Bit-exact: PyTorch's own forward runs."""
    assert unequal(*both(name, transform, FALLEN_BACK[transform])) == ""


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.parametrize("name", ["deep", "residual", "gated"])
def test_linearize(name: str) -> None:
    """Bit-exact. PyTorch's own refuses in-place activations and its RMSNorm."""
    found = both(name, "linearize", lambda net, x: func.linearize(net, x)[1](x.sin()))
    assert unequal(*found) == ""


def cost_of_parameters(net: Net, x: Tensor) -> Callable[..., Tensor]:
    names = list(named(net))
    return lambda *p: at(net, x)(dict(zip(names, p, strict=True))).pow(2).sum()


BY_HAND: dict[str, tuple[Callable[[Net, Tensor], Any], float]] = {
    "jacobian": (lambda net, x: classic.jacobian(net, x), 0),
    "vectorized jacobian": (lambda net, x: classic.jacobian(net, x, vectorize=True), ROUNDING),
    "jacobian with a graph": (
        lambda net, x: classic.jacobian(net, x.requires_grad_(), create_graph=True, vectorize=True),
        ROUNDING,
    ),
    "vjp": (lambda net, x: classic.vjp(net, x, x.sin()), 0),
    "jvp": (lambda net, x: classic.jvp(net, x, x.sin()), ROUNDING),
    "hessian": (lambda net, x: classic.hessian(scalar(net), x), ROUNDING),
    "vectorized hessian": (
        lambda net, x: classic.hessian(scalar(net), x, vectorize=True),
        ROUNDING,
    ),
    "hessian of parameters": (
        lambda net, x: classic.hessian(
            cost_of_parameters(net, x), tuple(named(net).values()), vectorize=True
        ),
        ROUNDING,
    ),
    "vhp": (lambda net, x: classic.vhp(scalar(net), x, x.sin(), create_graph=True), ROUNDING),
    "hvp": (lambda net, x: classic.hvp(scalar(net), x, x.sin()), ROUNDING),
}


@pytest.mark.usefixtures("deltas")
@pytest.mark.parametrize("transform", BY_HAND)
@pytest.mark.parametrize("name", NAMES)
def test_by_hand(name: str, transform: str) -> None:
    """torch.autograd.functional; bit-exact at first order, else to rounding."""
    function, rtol = BY_HAND[transform]
    assert unequal(*both(name, transform, function), rtol=rtol) == ""


@pytest.mark.usefixtures("in_python")
def test_which_run_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one in the second table, none in the first."""
    right, calls = Chain.forward, []

    def spy(ctx: Any, *args: Any) -> Any:
        calls.append(1)
        return right(ctx, *args)

    monkeypatch.setattr(Chain, "forward", staticmethod(spy))
    for transform in FALLEN_BACK:
        FALLEN_BACK[transform](pair("deep")[0], rows())
    assert calls == []
    for transform in BY_HAND:
        calls.clear()
        BY_HAND[transform][0](pair("deep")[0], rows())
        assert calls, transform


def orders(net: Net, x: Tensor) -> list[Tensor | None]:
    """Three derivatives by x, and then one by every parameter."""
    x = x.detach().requires_grad_()
    value, found = net(x).pow(2).sum(), []
    for _ in range(3):
        (g,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(g)
        value = g.pow(2).sum()
    return [*found, *torch.autograd.grad(value, list(net.parameters()), allow_unused=True)]


@pytest.mark.parametrize("name", NAMES)
def test_four_orders(name: str) -> None:
    """To rounding: 1e-11 of the largest element, through four nested recursions."""
    assert unequal(*both(name, "orders", orders), rtol=1e-11) == ""


SMOOTH = [name for name in NAMES if name not in ("relu", "elu", "dropout")]


# PyTorch's own call, whose own filter misses it in 2.6.
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap` instead:FutureWarning")
@pytest.mark.usefixtures("deltas")
@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck(name: str) -> None:
    """PyTorch's own tolerances, all its modes, by input and parameters."""
    net = pair(name)[0]
    names, values = zip(*net.named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(net, named, (x,))

    x = rows(3, grad=True)
    assert is_by_hand(function(x, *values)) or name == "unknown"
    modes = {"check_batched_grad": True, "fast_mode": True}
    # Running statistics are written in place, which neither forward mode nor vmap can do.
    forward_mode = name != "batchnorm"
    assert torch.autograd.gradcheck(
        function, (x, *values), check_forward_ad=forward_mode, **modes,
        check_batched_forward_grad=forward_mode,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(
        function, (x, *values), check_fwd_over_rev=forward_mode, check_rev_over_rev=True, **modes
    )


def test_planted_fault_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the R-operator: the comparisons above must see it."""
    right = Linear.double_backward

    def without(self, v, v_theta, *rest):  # type: ignore[no-untyped-def]
        return right(self, v, (None, None), *rest)

    monkeypatch.setattr(Linear, "double_backward", without)
    monkeypatch.setattr(Tanh, "r_operator_from", 0)
    transform = "hessian of parameters"
    assert unequal(*both("deep", transform, BY_HAND[transform][0]), rtol=ROUNDING)


def test_ensemble() -> None:
    """stack_module_state and vmap over five members; bit-exact."""
    ours = [manualbp.MLP((6, 9, 6), "tanh") for _ in range(5)]
    theirs = [nn.Sequential(*copy.deepcopy(list(net))) for net in ours]
    found = []
    for members in (ours, theirs):
        base = copy.deepcopy(members[0]).to("meta")
        parameters, buffers = func.stack_module_state(members)

        def member(p: Any, b: Any, x: Tensor, base: Net = base) -> Tensor:
            return func.functional_call(base, (p, b), (x,))

        output = func.vmap(member, (0, 0, None))(parameters, buffers, rows(dtype=torch.float32))
        output.pow(2).sum().backward()
        found.append([output, *[p.grad for p in parameters.values()]])
    assert unequal(*found) == ""


def trained(net: Net, steps: int, cost: Callable[[Net, int], Tensor]) -> list[Tensor]:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    costs = []
    for step in range(steps):
        optimizer.zero_grad()
        value = cost(net, step)
        value.backward()
        optimizer.step()
        costs.append(value.detach())
    return [torch.stack(costs), *[p.detach() for p in net.parameters()]]


def poisson(net: Net, step: int) -> Tensor:
    """Squared residual of Laplace(u) = sin: second derivatives by x, trained through."""
    x = rows(8, grad=True)
    u = net(x).sum(1)
    (g,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    laplacian = torch.zeros_like(u)
    for i in range(3):
        laplacian = laplacian + torch.autograd.grad(g[:, i].sum(), x, create_graph=True)[0][:, i]
    return (laplacian - x.sum(1).sin()).pow(2).mean()


def penalty(net: Net, step: int) -> Tensor:
    """The gradient penalty of WGAN-GP."""
    x = rows(8, grad=True)
    score = net(x).sum(1)
    (g,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
    return score.mean() + 10 * (g.norm(2, dim=1) - 1).pow(2).mean()


def inner_loop(net: Net, step: int) -> Tensor:
    """MAML: a cost behind two steps of gradient descent that are part of the graph."""
    x, y = rows(8), rows(8).cos()
    parameters = dict(net.named_parameters())
    for _ in range(2):
        inner = (at(net, x)(parameters) - y).pow(2).mean()
        gradients = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
        pairs = zip(parameters.items(), gradients, strict=True)
        parameters = {name: p - 0.1 * g for (name, p), g in pairs}
    return (at(net, x)(parameters) - y).pow(2).mean()


@pytest.mark.parametrize("cost", [poisson, penalty, inner_loop], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", ["deep", "layernorm", "residual", "gated", "block"])
def test_trainings_through_derivatives(name: str, cost: Callable[[Net, int], Tensor]) -> None:
    """fp64, 50 steps of Adam: 1e-7, since rounding grows along a training."""
    found = [trained(net, 50, cost) for net in pair(name)]
    assert unequal(*found, rtol=1e-7) == ""
    assert found[0][0][-1] < found[0][0][0]
