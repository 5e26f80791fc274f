"""One run of one arm, held against torch's own functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity.arms.calls import Call, Directions, random_cotangent
from manualbp.parity.arms.runs import (
    RUN_KINDS,
    ArmRun,
    autocast,
    backward,
    forward_mode,
    second_order,
    vmap,
)
from manualbp.parity.arms.subject import subject


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
# float64 and another order of the same sums: a few hundred eps.
CLOSE = {"rtol": 1e-13, "atol": 1e-14}


def of(inputs: Any, loss: Any = None, target: Any = None, seed: int = 0) -> Call:
    return Call.of(inputs, loss, target, seed)


def pure(net: nn.Module, loss: Any = None) -> Any:
    """(x, w) -> the output or the loss."""

    def function(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        output = torch.func.functional_call(net, dict(parameters), x)
        return output if loss is None else loss(output, Y)

    return function


def values(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


# The four kinds.


@pytest.mark.parametrize("loss", [None, nn.MSELoss()], ids=["cotangent", "loss"])
def test_backward_is_autograd(loss: Any) -> None:
    """Bit-exact: the very same operators."""
    net, x = model(), X.clone().requires_grad_()
    run = backward(subject(net), of(X, loss, None if loss is None else Y), Directions(5))
    output = net(x)
    root, name = (output, "output") if loss is None else (loss(output, Y), "loss")
    cotangent = random_cotangent(root.shape, root.dtype, 5)
    root.backward(cotangent)
    expected = {"output": output, name: root, "input.grad": x.grad}
    expected |= {f"{name}.grad": p.grad for name, p in net.named_parameters()}
    assert list(run.tensors) == list(expected)
    assert all(torch.equal(run.tensors[n], t) for n, t in expected.items())  # type: ignore[arg-type]
    assert run.structure == "tensor" and run.edited == ()


@pytest.mark.parametrize("loss", [None, nn.MSELoss()], ids=["cotangent", "loss"])
def test_second_order_is_the_derivative_of_vjp(loss: Any) -> None:
    """d/d(x, w) of <u, dC/d(x, w)> by torch.func, over the same u."""
    net, directions = model(), Directions(5)
    run = second_order(subject(net), of(X, loss, None if loss is None else Y), directions)
    function, primals = pure(net, loss), (X, values(net))

    def first(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        root, pull = torch.func.vjp(function, x, w)
        of_x, of_w = pull(directions.of("output" if loss is None else "loss", root.detach()))
        found = {"input.grad": of_x} | {f"{n}.grad": g for n, g in of_w.items()}
        return sum((directions.of(f"{n} u", g.detach()) * g).sum() for n, g in found.items())

    of_x, of_w = torch.func.grad(first, argnums=(0, 1))(*primals)
    expected = {"input": of_x, **of_w}
    for name, value in expected.items():
        found = run.tensors[f"second_order {name}.grad"]
        if found is None:  # torch.func has zeros where autograd has nothing
            assert name == "2.bias" and loss is None and not value.any()
        else:
            torch.testing.assert_close(found, value, **CLOSE)
    assert len(run.tensors) == len(expected)


@pytest.mark.parametrize("loss", [None, nn.MSELoss()], ids=["output", "loss"])
def test_forward_mode_is_a_jvp(loss: Any) -> None:
    """Bit-exact, and the same number as <cotangent, jvp> = <vjp, tangents>, to rounding."""
    net, directions = model(), Directions(5)
    call = of(X, loss, None if loss is None else Y)
    run = forward_mode(subject(net), call, directions)
    primals = {"input": X, **values(net)}
    tangents = {n: directions.of(f"{n} tangent", x) for n, x in primals.items()}
    of_x = tangents.pop("input")
    expected = torch.func.jvp(pure(net, loss), (X, values(net)), (of_x, tangents))[1]
    name = "output" if loss is None else "loss"
    found = run.tensors[f"forward_mode {name}"]
    assert found is not None and torch.equal(found, expected) and len(run.tensors) == 1

    back = backward(subject(net), call, directions).tensors
    pairing = sum((back[f"{n}.grad"] * t).sum() for n, t in {"input": of_x, **tangents}.items())
    torch.testing.assert_close((directions.of(name, found) * found).sum(), pairing, **CLOSE)


@pytest.mark.parametrize("loss", [None, nn.MSELoss()], ids=["cotangent", "loss"])
def test_vmap_is_a_loop(loss: Any) -> None:
    """Each of the stacked inputs as a backward of its own."""
    net, directions = model(), Directions(5)
    target = None if loss is None else Y
    run = vmap(subject(net), of(X, loss, target), directions)
    for i, size in enumerate((1.0, -0.5, 1.5)):
        alone = backward(subject(net), of(X * size, loss, target), directions).tensors
        for name, value in alone.items():
            if loss is None or name != "output":
                torch.testing.assert_close(run.tensors[f"vmap {name}"][i], value, **CLOSE)  # type: ignore[index]
    assert len(run.tensors) == 6


def test_vmap_needs_something_to_stack() -> None:
    with pytest.raises(ValueError, match="a floating-point input for vmap, got none"):
        vmap(subject(nn.Embedding(3, 2)), of(torch.arange(2)), Directions(0))


# All kinds alike.


@pytest.mark.parametrize("kind", RUN_KINDS)
def test_a_map_and_frozen_parameters(kind: str) -> None:
    """Names are the reference's, what needs no gradient has none, and the module stays as it is."""
    net = model()
    net[0].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    plain = RUN_KINDS[kind](subject(net), of(X), Directions(0)).tensors
    mapped = RUN_KINDS[kind](subject(net, {"2.weight": "out"}), of(X), Directions(0)).tensors
    assert [n.replace("2.weight", "out") for n in plain] == list(mapped)
    assert not any("0.bias" in name for name in plain)
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("kind", RUN_KINDS)
def test_a_hook_turns_what_comes_in(kind: str) -> None:
    """Twice the gradient of the outputs gives twice of everything linear in it, by the bit."""
    once = RUN_KINDS[kind](subject(model()), of(X), Directions(0)).tensors
    twice = RUN_KINDS[kind](subject(model()), of(X), Directions(0), lambda g: g * 2).tensors
    for name, value in once.items():
        if value is not None:
            factor = 1 if name.endswith("output") and kind != "forward_mode" else 2
            assert torch.equal(twice[name], value * factor)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["backward", "second_order", "forward_mode"])
def test_random_layers_draw_the_same_by_seed(kind: str) -> None:
    net = nn.Sequential(model(), nn.Dropout(0.5), nn.Tanh())

    def run(seed: int) -> ArmRun:
        return RUN_KINDS[kind](subject(net), of(X, seed=seed), Directions(0))

    first, again, other = run(0).tensors, run(0).tensors, run(1).tensors
    same = [n for n, t in first.items() if t is not None and torch.equal(t, other[n])]  # type: ignore[arg-type]
    assert all(torch.equal(t, again[n]) for n, t in first.items() if t is not None)  # type: ignore[arg-type]
    assert len(same) < len(first)


def test_autocast_is_autocast() -> None:
    """Bit-exact: forward and loss in it, backward outside, as PyTorch advises."""
    net, x = model().float(), X.float().requires_grad_()
    run = autocast(subject(net), of(X.float(), nn.MSELoss(), Y.float()), Directions(5))
    with torch.autocast("cpu", torch.bfloat16):
        output = net(x)
        loss = nn.functional.mse_loss(output, Y.float())
    loss.backward(random_cotangent(loss.shape, loss.dtype, 5))
    assert torch.equal(run.tensors["autocast input.grad"], x.grad)  # type: ignore[arg-type]
    assert run.tensors["autocast output"].dtype is torch.bfloat16  # type: ignore[union-attr]
    double = autocast(subject(net.double()), of(X), Directions(5)).tensors["autocast output"]
    assert double.dtype is torch.float64  # type: ignore[union-attr]  # the oracle is untouched
