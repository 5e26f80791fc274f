"""A plan never goes stale: parameters and buffers are changed after the first call; bit-exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import manualbp
from manualbp.modules import gated, stretch
from manualbp.modules.plan import Plan
from tests.modules.changes import (
    OWNERS,
    WIDTH,
    Change,
    Net,
    differing_after,
    is_by_hand,
    linear,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


def frozen(*roles: str) -> Change:
    """And trained again."""

    def change(net: Net) -> Iterator[None]:
        for trained in (False, True):
            for role in roles:
                net[role].weight.requires_grad_(trained)
            yield

    return change


def all_frozen(net: Net) -> Iterator[None]:
    for trained in (False, True):
        net.module.requires_grad_(trained)
        yield


def tied(net: Net) -> Iterator[None]:
    own = net["fc2"].weight
    net["fc2"].weight = net["fc1"].weight
    yield
    net["fc2"].weight = own
    yield


def exchanged(name: str, role: str = "fc1", frozen: bool = False) -> Change:
    def change(net: Net) -> None:
        old = getattr(net[role], name)
        setattr(net[role], name, nn.Parameter(torch.randn_like(old), requires_grad=not frozen))

    return change


def bias_gone(net: Net) -> Iterator[None]:
    own = net["fc1"].bias
    net["fc1"].bias = None
    yield
    net["fc1"].bias = own
    yield


def data(of: Callable[[Tensor], Tensor], name: str = "weight") -> Change:
    def change(net: Net) -> None:
        tensor = getattr(net["fc1"], name)
        tensor.data = of(tensor.data)

    return change


def of_dtype(*dtypes: torch.dtype) -> Change:
    def change(net: Net) -> Iterator[None]:
        for dtype in dtypes:
            net.module.to(dtype)
            yield

    return change


def widened(net: Net) -> None:
    """The width between two layers, within the tensors that are there."""
    for role in {"fc1", "up"} & net.names.keys():
        net[role].weight.data, net[role].bias.data = torch.randn(9, WIDTH), torch.randn(9)
    net["fc2"].weight.data = torch.randn(WIDTH, 9)


def swapped(net: Net) -> None:
    layer = net["fc1"]
    layer.weight, layer.bias = layer.bias, layer.weight


def renamed(net: Net) -> None:
    """The same two tensors in the same order, by each other's names."""
    weight, bias = net["norm"].weight, net["norm"].bias
    del net["norm"].weight, net["norm"].bias
    net["norm"].bias, net["norm"].weight = weight, bias
    with torch.no_grad():
        weight.add_(1)


def no_parameter(net: Net) -> None:
    weight = net["fc1"].weight.detach() * 2
    del net["fc1"].weight
    net["fc1"].weight = weight


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).t()


def parametrized(add: Callable[[nn.Module], Any]) -> Change:
    """And no longer."""

    def change(net: Net) -> Iterator[None]:
        add(net["fc1"])
        yield
        with torch.no_grad():
            next(net["fc1"].parameters()).mul_(2)
        yield
        parametrize.remove_parametrizations(net["fc1"], "weight")
        yield

    return change


def pruned(net: Net) -> Iterator[None]:
    prune.l1_unstructured(net["fc1"], "weight", 0.5)
    yield
    prune.remove(net["fc1"], "weight")
    yield


def weight_norm_of_old(net: Net) -> Iterator[None]:
    nn.utils.weight_norm(net["fc1"])
    yield
    nn.utils.remove_weight_norm(net["fc1"])
    yield


def contents_swapped(net: Net) -> None:
    torch.utils.swap_tensors(net["fc1"].weight, nn.Parameter(torch.randn(WIDTH, WIDTH)))


def stepped(net: Net) -> Iterator[None]:
    optimizer = torch.optim.SGD(net.module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.step()
        yield


def loaded(assign: bool) -> Change:
    def change(net: Net) -> None:
        state = {name: t + 1 for name, t in net.module.state_dict().items()}
        net.module.load_state_dict(state, assign=assign)

    return change


def hooked(net: Net) -> Iterator[None]:
    handle = net["fc1"].weight.register_hook(lambda g: 2 * g)
    yield
    handle.remove()
    yield


def buffer(name: str, of: Callable[[Tensor], Tensor | None]) -> Change:
    return lambda net: setattr(net["norm"], name, of(getattr(net["norm"], name)))


LINEAR: dict[str, Change] = {
    "frozen": frozen("fc1"),
    "all weights frozen": frozen("fc1", "fc2"),
    "all frozen": all_frozen,
    "tied": tied,
    "other weight": exchanged("weight"),
    "other weight, frozen": exchanged("weight", frozen=True),
    "other bias": exchanged("bias"),
    "no bias": bias_gone,
    "data": data(lambda w: w * 2),
    "data of the bias": data(lambda b: b * 2, "bias"),
    "transposed data": data(lambda w: w.t().contiguous().t()),
    "transposed values": data(torch.t),
    "strided data": data(lambda w: torch.cat([w, w], 1)[:, ::2]),
    "expanded bias": data(lambda b: b[:1].expand(WIDTH), "bias"),
    "other shape": widened,
    "a shape that does not fit": data(lambda w: w[:, :-1]),
    "weight and bias swapped": swapped,
    "float64": of_dtype(torch.float64, torch.float32),
    "bfloat16": of_dtype(torch.bfloat16),
    "float64 of one weight": data(Tensor.double),
    "no parameter": no_parameter,
    "parametrize": parametrized(
        lambda m: parametrize.register_parametrization(m, "weight", Symmetric())
    ),
    "weight_norm": parametrized(parametrizations.weight_norm),
    "spectral_norm": parametrized(parametrizations.spectral_norm),
    "weight_norm of old": weight_norm_of_old,
    "prune": pruned,
    "contents swapped": contents_swapped,
    "optimizer": stepped,
    "state loaded": loaded(False),
    "state assigned": loaded(True),
    "hook of a tensor": hooked,
}
NORM: dict[str, Change] = {
    "other gamma": exchanged("weight", "norm"),
    "gamma and beta by each other's names": renamed,
    "running mean": buffer("running_mean", lambda b: b + 1),
    "running mean in place": lambda net: net["norm"].running_mean.add_(1),
    "no running mean": buffer("running_mean", lambda b: None),
    "counter": buffer("num_batches_tracked", lambda b: b + 3),
}
PAIRS = [(owner, name, change) for owner in OWNERS
         for name, change in {**LINEAR, **(NORM if "norm" in OWNERS[owner].names else {})}.items()
        ]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "change"), PAIRS, ids=[f"{o}-{n}" for o, n, _ in PAIRS])
def test_changed_tensor(owner: str, name: str, change: Change) -> None:
    assert differing_after(owner, change) == []


@pytest.mark.parametrize("owner", OWNERS)
def test_by_hand_when_trained_for_the_first_time(owner: str) -> None:
    """Frozen as a whole it is not."""
    model, _ = OWNERS[owner].build()
    model.requires_grad_(False)
    assert not is_by_hand(model)
    model.requires_grad_(True)
    assert is_by_hand(model)


# What a plan need not be found again for: the tensors are the same ones, with other contents.
IN_PLACE = ("frozen", "all weights frozen", "all frozen", "data", "data of the bias",
            "transposed data", "transposed values", "strided data", "expanded bias", "other shape",
            "a shape that does not fit", "float64", "bfloat16", "float64 of one weight",
            "contents swapped", "optimizer", "state loaded", "hook of a tensor",
            "running mean in place")  # fmt: skip


def test_planted_stale_plans_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that holds whatever happens: nearly all cases with other tensors see it."""
    monkeypatch.setattr(Plan, "holds", lambda self, children, key: True)
    pairs = [(name, change, owner) for owner, name, change in PAIRS if name not in IN_PLACE]
    wrong = [name for name, change, owner in pairs if differing_after(owner, change)]
    assert len(wrong) > 0.9 * len(pairs)


def test_planted_stale_layouts_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, strides and dtypes that are not looked at again: every owner sees it."""
    for module in (stretch, gated):
        monkeypatch.setattr(module, "states", lambda x, tensors: "the same")
    wrong = [(owner, name) for owner, name, change in PAIRS if differing_after(owner, change)]
    seen = ("transposed data", "strided data")
    assert {(owner, name) for owner in OWNERS for name in seen} <= set(wrong)


def test_the_same_weights_with_other_inputs() -> None:
    """Bit-exact, whatever came before: shapes, layouts, and inputs that want no gradient."""
    torch.manual_seed(0)
    twin = nn.Sequential(linear(), nn.Tanh(), linear())
    model = manualbp.Sequential(*twin)
    x = torch.randn(6, WIDTH)
    inputs = [x, x.t().contiguous().t(), x[:1], x[0], x[:0], x[::2], x[:, :1].expand(6, WIDTH),
              x.view(2, 3, WIDTH), x.view(3, 2, WIDTH).transpose(0, 1)]  # fmt: skip
    for first, second in itertools.product(inputs, inputs):
        for wants_x in (True, False):
            model(first)
            y = second.detach().requires_grad_(wants_x)
            wanted = [*twin.parameters(), *([y] if wants_x else [])]
            g = torch.randn_like(twin(y))
            found = [torch.autograd.grad(net(y), wanted, g) for net in (model, twin)]
            for ours, theirs in zip(*found, strict=True):
                assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
