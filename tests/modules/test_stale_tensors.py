"""A plan never goes stale: other parameters and buffers after the first call; bit-exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import manualbp
from manualbp.modules.plan import KEY, Plan
from tests.modules.changes import (
    OWNERS,
    WIDTH,
    Change,
    Net,
    differing_after,
    linear,
)
from tests.versions import REFUSES_ONE_STATISTIC

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


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


def assigned(net: Net) -> None:
    state = {name: t + 1 for name, t in net.module.state_dict().items()}
    net.module.load_state_dict(state, assign=True)


def buffer(name: str, of: Callable[[Tensor], Tensor | None]) -> Change:
    return lambda net: setattr(net["norm"], name, of(getattr(net["norm"], name)))


LINEAR: dict[str, Change] = {
    "tied": tied,
    "other weight": exchanged("weight"),
    "other weight, frozen": exchanged("weight", frozen=True),
    "other bias": exchanged("bias"),
    "no bias": bias_gone,
    "weight and bias swapped": swapped,
    "no parameter": no_parameter,
    "parametrize": parametrized(
        lambda m: parametrize.register_parametrization(m, "weight", Symmetric())
    ),
    "weight_norm": parametrized(parametrizations.weight_norm),
    "spectral_norm": parametrized(parametrizations.spectral_norm),
    "weight_norm of old": weight_norm_of_old,
    "prune": pruned,
    "state assigned": assigned,
}
NORM: dict[str, Change] = {
    "other gamma": exchanged("weight", "norm"),
    "gamma and beta by each other's names": renamed,
    "running mean": buffer("running_mean", lambda b: b + 1),
    "no running mean": buffer("running_mean", lambda b: None),
    "counter": buffer("num_batches_tracked", lambda b: b + 3),
}
CASES = {**LINEAR, **NORM}
PAIRS = [(owner, name) for owner in OWNERS for name in CASES
         if name in LINEAR or "norm" in OWNERS[owner].names]  # fmt: skip


@pytest.mark.parametrize(("owner", "name"), PAIRS)
def test_other_tensor(owner: str, name: str) -> None:
    assert differing_after(owner, CASES[name]) == []


def test_planted_stale_plans_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that holds whatever happens: every case sees it, for every owner."""
    monkeypatch.setattr(Plan, "holds", lambda self, children, key: True)
    # Where PyTorch does without running_mean, so does a plan that never heard of it.
    seen = [p for p in PAIRS if p[1] != "no running mean" or REFUSES_ONE_STATISTIC]
    assert [(owner, name) for owner, name in seen if not differing_after(owner, CASES[name])] == []


def test_an_attribute_at_the_very_end() -> None:
    """Of the last child, with no parameter behind it; bit-exact."""
    torch.manual_seed(0)
    twin = nn.Sequential(linear(), nn.Tanh())
    weight, bias = (p.detach().requires_grad_() for p in twin.parameters())
    del twin[0].weight, twin[0].bias
    twin[0].weight, twin[0].bias = weight, bias
    model, x = manualbp.Sequential(*twin), torch.randn(5, WIDTH)
    assert type(model(x).grad_fn).__name__ == "ChainBackward" and KEY in vars(model)
    twin[1].forward = torch.sin
    assert torch.equal(model(x), twin(x))
