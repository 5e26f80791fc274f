"""A plan never goes stale: a child is changed after the first call; bit-exact.

Every case runs for every module that keeps a plan and has the children in question.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.modules.plan import Plan
from tests.modules.changes import (
    BY_NUMBER,
    OWNERS,
    WIDTH,
    Change,
    Net,
    differing_after,
    is_by_hand,
    linear,
    moments,
    twins,
)

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")

HOOKS: dict[str, tuple[Callable[..., Any], str, Callable[..., Any]]] = {
    "forward": (nn.Module.register_forward_hook, "_forward_hooks", lambda m, args, o: o * 2),
    "forward pre": (
        nn.Module.register_forward_pre_hook, "_forward_pre_hooks", lambda m, args: args[0] * 2
    ),
    "backward": (
        nn.Module.register_full_backward_hook,
        "_backward_hooks",
        lambda m, grads, _: tuple(g * 2 for g in grads),
    ),
    "backward pre": (
        nn.Module.register_full_backward_pre_hook,
        "_backward_pre_hooks",
        lambda m, grads: tuple(g * 2 for g in grads),
    ),
}  # fmt: skip


def hooked(role: str, kind: str) -> Change:
    """Registered, and removed again."""
    register, _, hook = HOOKS[kind]

    def change(net: Net) -> Iterator[None]:
        handle = register(net[role], hook)
        yield
        handle.remove()
        yield

    return change


def hooked_in_another_dict(role: str, kind: str, call_between: bool) -> Change:
    register, name, hook = HOOKS[kind]

    def change(net: Net) -> Iterator[None]:
        setattr(net[role], name, OrderedDict())
        if call_between:
            yield
        register(net[role], hook)
        yield

    return change


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Scale(nn.Module):
    """Unknown, and equal to all of its kind, as a dataclass may be."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale)

    __hash__ = nn.Module.__hash__

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def one_after_the_other(role: str, *makes: Callable[[], nn.Module]) -> Change:
    def change(net: Net) -> Iterator[None]:
        for make in makes:
            net[role] = make()
            yield

    return change


def classes(role: str, *kinds: type[nn.Module]) -> Change:
    def change(net: Net) -> Iterator[None]:
        for kind in kinds:
            net[role].__class__ = kind
            yield

    return change


def option(role: str, name: str, *values: object) -> Change:
    def change(net: Net) -> Iterator[None]:
        for value in values:
            setattr(net[role], name, value)
            yield

    return change


def in_training(*choices: bool) -> Change:
    def change(net: Net) -> Iterator[None]:
        for choice in choices:
            net.module.train(choice)
            yield

    return change


def overridden(role: str) -> Change:
    def change(net: Net) -> Iterator[None]:
        net[role].forward = torch.sin
        yield
        del net[role].forward
        yield

    return change


def compiled(net: Net) -> None:
    """By a compiler whose work cannot be overlooked."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(torch, "compile", lambda call, **options: lambda *args: 2 * call(*args))
        net["act"].compile()


# The role of the child that has to be there, and what happens to it.
CASES: dict[str, tuple[str, Change]] = {
    **{f"{kind} hook on {role}": (role, hooked(role, kind))
       for kind in HOOKS for role in ("fc1", "act", "fc2")},
    **{f"{kind} hook in another dict, {between=}": (
        "act", hooked_in_another_dict("act", kind, between))
       for kind in HOOKS for between in (False, True)},
    "known child": ("act", one_after_the_other("act", nn.Sigmoid, lambda: nn.ELU(0.3))),
    "other Linear": ("fc1", one_after_the_other("fc1", linear)),
    "no bias": ("fc2", one_after_the_other("fc2", lambda: nn.Linear(WIDTH, WIDTH, bias=False))),
    "unknown child": ("act", one_after_the_other("act", lambda: Scale(2.0), nn.Tanh)),
    "equal child": ("act", one_after_the_other("act", lambda: Scale(2.0), lambda: Scale(3.0))),
    "container": ("act", one_after_the_other("act", lambda: nn.Sequential(nn.Tanh()))),
    "class of a Linear": ("fc1", classes("fc1", Doubled, nn.Linear)),
    "class of an activation": ("act", classes("act", nn.SiLU, nn.ELU)),
    "eval and train": ("fc1", in_training(False, True)),
    "eval of the dropout": ("drop", lambda net: net["drop"].eval()),
    "eval of the norm": ("norm", lambda net: net["norm"].eval()),
    "in place": ("act", option("act", "inplace", True, False)),
    "alpha": ("act", option("act", "alpha", 0.4, 2)),
    "negative slope": ("leaky", option("leaky", "negative_slope", 0.4, 0.0, -0.1)),
    "leaky in place": ("leaky", option("leaky", "inplace", True, False)),
    "p": ("drop", option("drop", "p", 0.6, 0.0, 1.0, 0.2)),
    "dropout in place": ("drop", option("drop", "inplace", True)),
    "momentum": ("norm", option("norm", "momentum", 0.5, None)),
    "eps": ("norm", option("norm", "eps", 0.3, 0.0)),
    "no running statistics": ("norm", option("norm", "track_running_stats", False, True)),
    "own forward": ("act", overridden("act")),
    "own forward of a Linear": ("fc2", overridden("fc2")),
    "compiled": ("act", compiled),
}  # fmt: skip
PAIRS = [(owner, name) for name, (role, _) in CASES.items() for owner in OWNERS
         if role in OWNERS[owner].names]  # fmt: skip


@pytest.mark.parametrize(("owner", "name"), PAIRS)
def test_changed_child(owner: str, name: str) -> None:
    assert differing_after(owner, CASES[name][1]) == []


def moved(net: Net) -> None:
    name = BY_NUMBER["act"]
    net.module._modules[name] = net.module._modules.pop(name)


CONTAINER: dict[str, Change] = {
    "append": lambda net: net.module.append(nn.Tanh()),
    "extend": lambda net: net.module.extend([linear(), nn.Tanh()]),
    "insert": lambda net: net.module.insert(2, linear()),
    "pop": lambda net: net.module.pop(1),
    "set": lambda net: net.module.__setitem__(1, nn.Sigmoid()),
    "delete": lambda net: net.module.__delitem__(4),
    "delete a slice": lambda net: net.module.__delitem__(slice(1, 3)),
    "delete all": lambda net: net.module.__delitem__(slice(0, 6)),
    "other order": moved,
    "the same child twice": lambda net: net.module.append(net["fc1"]),
}


@pytest.mark.parametrize("name", CONTAINER)
@pytest.mark.parametrize("owner", ["Sequential", "Residual"])
def test_changed_container(owner: str, name: str) -> None:
    assert differing_after(owner, CONTAINER[name]) == []


@pytest.mark.parametrize("owner", OWNERS)
def test_by_hand_again_without_the_hook(owner: str) -> None:
    model, _ = twins(owner)
    seen = [is_by_hand(model.module) for _ in moments(hooked("fc2", "forward"), model)]
    assert seen == [False, True]


ALL = [(owner, name, CASES[name][1]) for owner, name in PAIRS]
ALL += [(owner, *case) for owner in ("Sequential", "Residual") for case in CONTAINER.items()]
# Where the numbers stay, though another routine computes them.
SAME = {(owner, name) for owner, name, _ in ALL if name in ("leaky in place", "dropout in place")}
SAME.add(("GatedMLP", "eval and train"))


def test_planted_stale_plans_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that holds whatever happens: all other cases see it."""
    monkeypatch.setattr(Plan, "holds", lambda self, children, key: True)
    assert {(o, name) for o, name, change in ALL if not differing_after(o, change)} == SAME
