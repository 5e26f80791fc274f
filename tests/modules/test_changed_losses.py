"""Options of a loss changed after its first call: torch.nn's value and gradient, bit-exact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.modules import cost
from manualbp.modules.cost import LOSSES

ROWS, CLASSES = 7, 5


class Pair(NamedTuple):
    ours: type[nn.Module]
    theirs: type[nn.Module]
    targets: tuple[str, ...]


PAIRS = {
    "mse": Pair(manualbp.MSELoss, nn.MSELoss, ("real",)),
    "l1": Pair(manualbp.L1Loss, nn.L1Loss, ("real",)),
    "huber": Pair(manualbp.HuberLoss, nn.HuberLoss, ("real",)),
    "smooth l1": Pair(manualbp.SmoothL1Loss, nn.SmoothL1Loss, ("real",)),
    "bce": Pair(manualbp.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, ("probabilities",)),
    "cross-entropy": Pair(
        manualbp.CrossEntropyLoss, nn.CrossEntropyLoss, ("indices", "probabilities")
    ),
}


def target(kind: str) -> Tensor:
    torch.manual_seed(1)
    if kind == "indices":
        return torch.arange(ROWS) % CLASSES
    real = torch.randn(ROWS, CLASSES)
    return real.softmax(-1) if kind == "probabilities" else real


def option(name: str, *values: Any) -> list[Callable[[Any], Any]]:
    return [functools.partial(_set, name, value) for value in values]


def _set(name: str, value: Any, loss: nn.Module) -> None:
    setattr(loss, name, value)


def weights(name: str) -> list[Callable[[Any], Any]]:
    """Set, edited in place, exchanged, taken away; and as an attribute that is no buffer."""
    first, second = torch.linspace(0.5, 1.5, CLASSES), torch.linspace(2, 1, CLASSES)

    def no_buffer(loss: Any) -> None:
        delattr(loss, name)
        setattr(loss, name, second.clone())

    return [
        lambda loss: setattr(loss, name, first.clone()),
        lambda loss: getattr(loss, name).mul_(3),
        lambda loss: setattr(loss, name, second.clone()),
        lambda loss: setattr(getattr(loss, name), "data", first.clone()),
        lambda loss: setattr(loss, name, None),
        no_buffer,
    ]


REDUCTIONS = option("reduction", "sum", "none", "mean")
CHANGES: dict[str, dict[str, list[Callable[[Any], Any]]]] = {
    **{name: {"reduction": REDUCTIONS} for name in PAIRS},
    "huber": {"reduction": REDUCTIONS, "delta": option("delta", 0.3, 2, 1.0)},
    "smooth l1": {"reduction": REDUCTIONS, "beta": option("beta", 0.3, 0, 0.0, 1)},
    "bce": {
        "reduction": REDUCTIONS, "weight": weights("weight"), "pos_weight": weights("pos_weight"),
        "both": option("weight", torch.full((CLASSES,), 2.0)) + weights("pos_weight"),
    },
    "cross-entropy": {
        "reduction": REDUCTIONS, "weight": weights("weight"),
        "label_smoothing": option("label_smoothing", 0.2, 0.5, 0.0),
        "ignore_index": option("ignore_index", 2, -100),
        "all": option("label_smoothing", 0.1) + weights("weight") + REDUCTIONS,
    },
}  # fmt: skip
CASES = [(name, kind, change) for name, changes in CHANGES.items() for change in changes
         for kind in PAIRS[name].targets]  # fmt: skip


def step(loss: nn.Module, kind: str) -> list[Tensor]:
    """C and dC/do; or the error that is raised."""
    torch.manual_seed(0)
    o = torch.randn(ROWS, CLASSES, requires_grad=True)
    try:
        cost = loss(o, target(kind))
    except RuntimeError as error:
        return [torch.tensor(list(str(error).encode()))]
    return [cost.detach(), *torch.autograd.grad(cost, o, cost.detach().cos())]


def differing_at(name: str, kind: str, change: str) -> list[int]:
    """The moments of the change at which value or gradient are not torch.nn's."""
    ours, theirs = PAIRS[name].ours(), PAIRS[name].theirs()
    wrong = []
    for i, edit in enumerate([lambda loss: None, *CHANGES[name][change]]):
        for loss in (ours, theirs):
            edit(loss)
        found, expected = step(ours, kind), step(theirs, kind)
        if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
            wrong.append(i)
    return wrong


@pytest.mark.parametrize(("name", "kind", "change"), CASES, ids=map("-".join, CASES))
def test_changed_option(name: str, kind: str, change: str) -> None:
    assert differing_at(name, kind, change) == []


@pytest.mark.parametrize(("name", "kind", "change"), CASES, ids=map("-".join, CASES))
def test_by_hand_whatever_the_options(name: str, kind: str, change: str) -> None:
    if (kind, change) == ("probabilities", "ignore_index"):
        return  # there torch.nn raises an error
    loss = PAIRS[name].ours()
    for edit in CHANGES[name][change]:
        edit(loss)
        cost = loss(torch.randn(ROWS, CLASSES, requires_grad=True), target(kind))
        assert type(cost.grad_fn).__name__ == "CostBackward"


def test_planted_stale_losses_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module computes, found at its first call only: every case sees it."""
    for kind, build in LOSSES.items():
        monkeypatch.setitem(LOSSES, kind, functools.lru_cache(build))
    assert [case for case in CASES if not differing_at(*case)] == []


def test_other_options_at_every_step_are_not_all_kept() -> None:
    """A delta that falls, bit-exact with torch.nn's at each step."""
    o, y = torch.linspace(-3, 3, 8, requires_grad=True), torch.zeros(8)
    ours, theirs = manualbp.HuberLoss(), nn.HuberLoss()
    for step in range(2 * cost.MOST):
        ours.delta = theirs.delta = 2 / (1 + step)
        found = [torch.autograd.grad(loss(o, y), o)[0] for loss in (ours, theirs)]
        assert torch.equal(*found)
    assert len(cost._KNOWN) <= cost.MOST
