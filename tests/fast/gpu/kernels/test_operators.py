"""The kernels' operators under PyTorch's own checks, and modules that run them beside its features.

Values are nn.Sequential's within 1e-5 of each tensor's largest: fp32, sums of at most 40 terms.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import manualbp
from manualbp.fast.gpu import kernels
from manualbp.maths.activations import ACTIVATIONS
from tests.dropin.nets import unequal

pytest.importorskip("triton")
pytestmark = pytest.mark.kernels
DEVICE = "cpu" if kernels._INTERPRETED else "cuda"
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def ran(by_kernels: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Kernels everywhere; the names of those that ran."""
    from manualbp.fast.gpu.kernels import chain, linear

    seen: list[str] = []
    for module, name in ((linear, "forward"), (linear, "input_gradient"), (chain, "step")):
        right = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, r=right, name=name: seen.append(name) or r(*args)
        )
    assert kernels.takes(torch.zeros(1, device=DEVICE))
    seen.clear()
    torch._dynamo.reset()
    yield seen
    torch._dynamo.reset()


def rows(n: int = 9, columns: int = 6, grad: bool = False) -> Tensor:
    x = torch.randn(n, columns, generator=torch.Generator().manual_seed(n)).to(DEVICE)
    return x.requires_grad_(grad)


def pair() -> tuple[nn.Sequential, nn.Sequential]:
    """Ours in fast mode, and PyTorch's."""
    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Linear(6, 20), nn.GELU(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 6)
    ).to(DEVICE)
    ours = manualbp.Sequential(*copy.deepcopy(list(theirs)))
    manualbp.set_mode("fast", ours)
    return ours, theirs


def passed(net: Callable[[Tensor], Tensor], model: nn.Module) -> list[Tensor | None]:
    """o, and the gradients of x and every parameter."""
    x = rows(grad=True)
    model.zero_grad()
    o = net(x)
    o.backward(o.detach().cos())
    return [o.detach(), x.grad, *[p.grad for p in model.parameters()]]


UP_AND_DOWN = ["forward"] * 2 + ["input_gradient"] * 2


def samples() -> list[tuple[Any, tuple[Any, ...]]]:
    """Every operator with and without each optional thing."""
    ops, found = torch.ops.manualbp, list[tuple[Any, tuple[Any, ...]]]()
    x, w, b, delta = rows(9), rows(8), rows(8)[:, 0].contiguous(), rows(9, 8)
    for keep, bias, f in ((True, b, "gelu"), (False, None, "relu")):
        found.append((ops.activated_linear.default, (x, w, bias, f, 0.0, 0.0, keep)))
        args = (delta, w, x.t().contiguous().t(), f, 0.0, 0.0, keep)
        found.append((ops.activated_input_gradient.default, args))
    found.append((ops.activated_linear.default, (x[:0], w, b, "elu", 1.0, 1.0, True)))
    empty = (delta[:0], w, x[:0], "elu", 1.0, 1.0, True)
    found.append((ops.activated_input_gradient.default, empty))
    y, classes = rows(9, 3), torch.arange(9, device=DEVICE) % 3
    for target, loss, x_too in (
        (y, ("mse", 0.0, 0), True),
        (classes, ("cross_entropy", 0.1, 1), False),
    ):
        found.append((ops.narrow_step.default, (
            x, target, [w, rows(3, 8)], [b, None], "gelu,none", [0.0, 0.0], [0.0, 0.0],
            [True, False], *loss, x_too, [x_too, True], [True, False],
        )))  # fmt: skip
    return found


@pytest.mark.parametrize("number", range(8))
def test_opcheck(number: int) -> None:
    """What is declared is so: nothing written over or aliased, shapes and dtypes as traced."""
    kernels.load()
    operator, args = samples()[number]
    torch.library.opcheck(operator, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("number", range(8))
def test_compiled_operators(number: int, ran: list[str]) -> None:
    """Bit-exact: in a graph the same kernels run."""
    kernels.load()
    operator, args = samples()[number]
    compiled = torch.compile(lambda *a: operator(*a), backend="aot_eager", fullgraph=True)
    assert unequal(compiled(*args), operator(*args)) == "" and len(ran) == 2


def test_operators_have_no_derivative() -> None:
    """They say so instead of giving none."""
    a, _ = kernels.load().activated_linear(rows(grad=True), rows(8), None, "relu", 0.0, 0.0, False)
    with pytest.raises(RuntimeError, match="autograd"):
        a.sum().backward()


def test_every_activation_has_a_name_there(ran: list[str]) -> None:
    from manualbp.fast.gpu.kernels import functions

    assert set(functions.CODES) == set(map(type, ACTIVATIONS.values()))


def test_eager(ran: list[str]) -> None:
    ours, theirs = pair()
    assert unequal(passed(ours, ours), passed(theirs, theirs), rtol=CLOSE) == ""
    assert ran == UP_AND_DOWN


def test_planted_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number a ten-thousandth too large."""
    from manualbp.fast.gpu.kernels import linear

    right = linear.input_gradient

    def wrong(*args: Any) -> tuple[Tensor, Tensor]:
        below, sums = right(*args)
        return below * 1.0001, sums

    monkeypatch.setattr(linear, "input_gradient", wrong)
    ours, theirs = pair()
    assert unequal(passed(ours, ours), passed(theirs, theirs), rtol=CLOSE) != ""


@pytest.mark.parametrize("kind", ["copied", "pickled", "in place"])
def test_copies_and_files(kind: str, ran: list[str]) -> None:
    ours, theirs = pair()
    if kind == "in place":
        ours[1] = nn.ReLU(inplace=True)
        theirs[1] = nn.ReLU(inplace=True)
    twin = pickle.loads(pickle.dumps(ours)) if kind == "pickled" else copy.deepcopy(ours)
    assert unequal(passed(twin, twin), passed(theirs, theirs), rtol=CLOSE) == ""
    assert ran == UP_AND_DOWN


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant: bool, ran: list[str]) -> None:
    """The second forward by kernels as well; without reentrance it ends where all is found."""
    found = []
    for net in pair():
        run = lambda x, net=net: checkpoint(net, x, use_reentrant=reentrant)  # noqa: E731
        found.append(passed(run, net))
    assert unequal(*found, rtol=CLOSE) == ""
    # With reentrance the first forward records no graph, so it is PyTorch's.
    assert ran == (UP_AND_DOWN if reentrant else ["forward"] * 2 + UP_AND_DOWN)


def test_compiled_modules_are_pytorchs_graph(ran: list[str]) -> None:
    ours, theirs = pair()
    x, y, loss = rows(), rows().flip(0), nn.MSELoss()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    assert unequal(passed(compiled, ours), passed(theirs, theirs), rtol=CLOSE) == ""
    fused = torch.compile(manualbp.FusedLoss(ours, loss), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(fused(x, y), loss(theirs(x), y), rtol=CLOSE, atol=0)
    assert ran == []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_autograd(ran: list[str]) -> None:
    """What kernels kept, PyTorch's operators read: the graph holds no kernel."""
    found = []
    for net in pair():
        x = rows(grad=True)
        cost = net(x).pow(2).sum()
        with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            cost.backward()
        found.append([x.grad, *[p.grad for p in net.parameters()]])
    assert unequal(*found, rtol=CLOSE) == "" and ran == ["forward"] * 2


def under_func(net: nn.Module) -> list[Any]:
    x, parameters = rows(), dict(net.named_parameters())

    def cost(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(net, parameters, (x,)).pow(2).sum()

    return [
        torch.func.grad(cost)(parameters, x),
        torch.func.vmap(net)(x.view(3, 3, 6)),
        torch.func.vmap(torch.func.grad(cost), (None, 0))(parameters, x),
        torch.func.jvp(net, (x,), (x.flip(0),)),
        torch.func.jacrev(net)(x[0]),
    ]


def test_transforms_are_pytorchs_operators(ran: list[str]) -> None:
    assert unequal(*map(under_func, pair()), rtol=CLOSE) == "" and ran == []


def test_batched_cotangents_are_pytorchs_operators(ran: list[str]) -> None:
    found = []
    for net in pair():
        o = net(rows())
        many = torch.stack([o.detach(), o.detach().cos()])
        found.append(torch.autograd.grad(o, [*net.parameters()], many, is_grads_batched=True))
    assert unequal(*found, rtol=CLOSE) == "" and ran == ["forward"] * 2


@pytest.mark.parametrize("where", ["forward", "backward", "both"])
def test_autocast(where: str, ran: list[str]) -> None:
    """bfloat16 products, as nn.Sequential's are then: relative 5 % of the largest."""
    found = []
    for net in pair():
        x = rows(grad=True)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=where != "backward"):
            cost = net(x).float().pow(2).sum()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=where != "forward"):
            found.append([cost, *torch.autograd.grad(cost, [x, *net.parameters()])])
    assert unequal(*found, rtol=0.05) == ""
    assert ran == (["forward"] * 2 if where == "backward" else [])


def test_second_derivatives(ran: list[str]) -> None:
    """From what kernels kept, PyTorch's operators go on: 1e-4, sums of squares of sums."""
    found = []
    for net in pair():
        x = rows(grad=True)
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        found.append(
            [slope, *torch.autograd.grad(slope.square().sum(), [x, *net.parameters()][:-1])]
        )
    assert unequal(*found, rtol=1e-4) == "" and ran[:2] == ["forward"] * 2


def test_fake_tensors(ran: list[str]) -> None:
    ours, _ = pair()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        o = copy.deepcopy(ours)(mode.from_tensor(rows(grad=True)))
        o.sum().backward()
    assert o.shape == (9, 6) and ran == []


def test_operations_are_counted_in_backward(ran: list[str]) -> None:
    """Equal to nn.Sequential's: while a counter looks on, PyTorch's own operators run."""
    counts = []
    for net in pair():
        o = net(rows(grad=True)).sum()
        with FlopCounterMode(display=False) as counter:
            o.backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0 and ran == ["forward"] * 2
