"""derivatives in programs: frozen parameters, hooks, modes, copies, changed models, the graph."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.conversion.kept_stages import stages_or_reason
from tests.conversion.derived import ByHand, Nested, by_hand, close, everything, mlp, points, same


@pytest.fixture(autouse=True, params=["as found", "in Python"])
def way(request: pytest.FixtureRequest) -> None:
    if request.param == "in Python":
        request.getfixturevalue("in_python")


def nets(dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, Tensor]:
    return mlp(3, 5, 4, 2).to(dtype), points(6, 3, dtype)


@pytest.mark.parametrize("frozen", ["0.weight", "2.bias", "4.weight", "all", "x", "none but x"])
def test_frozen(frozen: str) -> None:
    for dtype in (torch.float32, torch.float64):
        net, x = nets(dtype)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(frozen not in (name, "all", "none but x"))
        x.requires_grad_(frozen != "x" and frozen != "all")
        for second in (None, "laplacian", "hessian"):
            same(net, x, second)
        assert all(t.requires_grad == (frozen != "all") for t in manualbp.derivatives(net, x))


def test_grad_adds_up_and_a_graph_serves_once() -> None:
    """Bit-exact: the same numbers, added."""
    net, x = nets()
    outputs = manualbp.derivatives(net, x, "laplacian")
    cost = sum(t.square().sum() for t in outputs)
    cost.backward(retain_graph=True)
    once = [p.grad.clone() for p in (x, *net.parameters())]
    cost.backward()
    for t, first in zip((x, *net.parameters()), once, strict=True):
        assert torch.equal(t.grad, first + first)
    with pytest.raises(RuntimeError, match="second time"):
        cost.backward()


@pytest.mark.usefixtures("never_by_graph")  # which reads no bias on its way down
@pytest.mark.parametrize("changed", ["0.weight", "2.bias", "x"])
def test_in_place_change_before_backward_is_an_error(changed: str) -> None:
    for second in (None, "laplacian"):
        net, x = nets()
        x = x.detach().clone()
        cost = sum(t.square().sum() for t in manualbp.derivatives(net, x, second))
        with torch.no_grad():
            (x if changed == "x" else net.get_parameter(changed)).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            cost.backward()


def test_the_same_bits_twice() -> None:
    net, x = nets()
    for second in (None, "laplacian", "diagonal", "hessian"):
        twice = [everything(ByHand(net, second), x, 1) for _ in range(2)]
        assert all(map(torch.equal, *twice))


@pytest.mark.parametrize("where", ["model", "child"])
def test_hooks_are_run(where: str) -> None:
    net, x = nets(torch.float64)
    manualbp.derivatives(net, x, "laplacian")
    hooked = net if where == "model" else net[1]
    handle = hooked.register_forward_hook(lambda module, args, output: output * 2)
    same(net, x, "laplacian")
    assert not by_hand(net, x)
    handle.remove()
    assert by_hand(net, x)
    same(net, x, "laplacian")


def _replaced(net: nn.Sequential) -> None:
    net[0].weight = nn.Parameter(torch.full((5, 3), 0.1, dtype=torch.float64))


CHANGES: dict[str, Any] = {
    "another activation": lambda net: net.__setitem__(1, nn.Sigmoid()),
    "another option": lambda net: setattr(net[3], "alpha", 0.3),
    "another parameter": _replaced,
    "no bias": lambda net: setattr(net[2], "bias", None),
    "one more": lambda net: net.append(nn.GELU()),
    "one less": lambda net: net.pop(4),
    "other numbers": lambda net: net[0].weight.data.mul_(2),
    "a forward": lambda net: setattr(net[1], "forward", torch.sin),
    "not known": lambda net: net.__setitem__(1, nn.Mish()),
    "known again": lambda net: (net.__setitem__(1, nn.Mish()), net.__setitem__(1, nn.SiLU())),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change: str) -> None:
    net, x = mlp(3, 5, 4, 2), points(6, 3)
    net[3] = nn.ELU()
    same(net, x, "laplacian")
    CHANGES[change](net)
    same(net, x, "laplacian")


def test_nothing_is_left_in_the_model() -> None:
    net, x = nets()
    before = {name: dict(module.__dict__) for name, module in net.named_modules()}
    manualbp.derivatives(net, x, "laplacian")
    assert {name: dict(module.__dict__) for name, module in net.named_modules()} == before
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        close(everything(ByHand(other, "laplacian"), x), everything(ByHand(net, "laplacian"), x))
        assert stages_or_reason(other) is not stages_or_reason(net)


def test_without_a_graph() -> None:
    net, x = nets(torch.float64)
    expected = [t.detach() for t in Nested(net, "hessian")(x)]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = manualbp.derivatives(net, x, "hessian")
            assert not any(t.requires_grad for t in found)
        close([t.clone() for t in found], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_and_autocast(dtype: torch.dtype) -> None:
    """By nested autograd: its bits."""
    net, x = nets(dtype)
    for ours, theirs in zip(ByHand(net, "laplacian")(x), Nested(net, "laplacian")(x), strict=True):
        assert torch.equal(ours, theirs) and ours.dtype is dtype
    net, x = nets()
    with torch.autocast("cpu", dtype):
        pairs = zip(ByHand(net, "hessian")(x), Nested(net, "hessian")(x), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_tensors_of_other_layouts() -> None:
    net, _ = nets(torch.float64)
    for parameter in net.parameters():
        parameter.data = torch.stack([parameter.data, parameter.data], -1)[..., 0]
    wide = points(6, 6)
    for x in (wide[:, ::2], points(3, 6).t(), points(1, 3).expand(5, 3), points(6, 3) * 2):
        leaf = x.detach().requires_grad_()  # keeps the strides
        for second in (None, "laplacian", "hessian"):
            same(net, leaf, second)
    x = (wide * 2)[:, :3]  # no leaf: gradients go on to wide
    found = [
        torch.autograd.grad(sum(t.square().sum() for t in arm(net, "laplacian")(x)), wide,
                            retain_graph=True) for arm in (ByHand, Nested)
    ]  # fmt: skip
    close(*map(list, found))


def test_a_subclass_of_tensor() -> None:
    class Mine(Tensor):
        pass

    net, x = nets(torch.float64)
    found = manualbp.derivatives(net, x.detach().as_subclass(Mine), "laplacian")
    close([t.as_subclass(Tensor) for t in found], list(Nested(net, "laplacian")(x)))


def test_functional_call_and_func_grad() -> None:
    """Parameters of one call alone; a transform around it, by x."""
    net, x = nets(torch.float64)
    arm, other = ByHand(net, "laplacian"), mlp(3, 5, 4, 2)
    for parameter in other.parameters():
        parameter.data.mul_(2)
    values = {f"net.{name}": p for name, p in other.named_parameters()}
    found = torch.func.functional_call(arm, values, (x,))
    close(list(found), list(Nested(other, "laplacian")(x)))
    close(list(arm(x)), list(Nested(net, "laplacian")(x)))
    by_func = torch.func.grad(lambda y: arm(y)[2].square().sum())(x.detach())
    (expected,) = torch.autograd.grad(Nested(net, "laplacian")(x)[2].square().sum(), x)
    close([by_func], [expected])


def test_batched_cotangents() -> None:
    """is_grads_batched, as torch.autograd.functional's vectorized Jacobian has it."""
    for dtype in (torch.float32, torch.float64):
        net, x = nets(dtype)
        grads = torch.eye(12, dtype=dtype).reshape(12, 6, 2)
        wanted = [x, *net.parameters()][:3]
        found = [
            torch.autograd.grad(arm(net, "laplacian")(x)[2], wanted, grads, is_grads_batched=True)
            for arm in (ByHand, Nested)
        ]
        close(*map(list, found))


def test_nothing_outlives_the_model() -> None:
    """Neither the parameters nor what was made of them, though C++ calls Python back."""
    net, x = nets()
    for second in (None, "laplacian"):
        sum(t.sum() for t in manualbp.derivatives(net, x, second)).backward()
    alive = [weakref.ref(p) for p in net.parameters()]
    del net
    gc.collect()
    assert not any(each() is not None for each in alive)
