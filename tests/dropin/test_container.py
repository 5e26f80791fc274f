"""The list that a Sequential is: indexing, operators, errors, subclasses."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from tests.dropin.nets import NAMES, backpropagated, is_by_hand, pair, rows, unequal

Net = Any


LISTS: dict[str, Callable[[Net], Any]] = {
    "len": len,
    "iteration": lambda net: [type(m).__name__ for m in net],
    "index": lambda net: repr((net[0], net[-1], net[1:3], net[::2])),
    "names": lambda net: list(dict(net.named_children())),
    "modules": lambda net: [n for n, _ in net.named_modules()],
    "attribute": lambda net: repr(getattr(net, "0")),
    "no attribute": lambda net: hasattr(net, "weight"),
    "dir": lambda net: sorted(n for n in dir(net) if not n.startswith("_")),
    "sum": lambda net: repr(list(net + nn.Sequential(nn.ReLU()))),
    "product": lambda net: repr(list(net * 2)),
    "in-place product": lambda net: repr(list(net.__imul__(2))),
    "right product": lambda net: repr(list(2 * net)),
    "pop": lambda net: repr((net.pop(1), list(net))),
    "insert": lambda net: repr(list(net.insert(0, nn.Identity()))),
    "extend": lambda net: repr(list(net.extend(nn.Sequential(nn.ReLU(), nn.Tanh())))),
    "append": lambda net: repr(list(net.append(nn.ReLU()))),
    "add_module": lambda net: (net.add_module("tail", nn.ReLU()), repr(list(net))),
    "register_module": lambda net: (net.register_module("tail", nn.ReLU()), repr(list(net))),
    "delete": lambda net: (net.__delitem__(1), repr(list(net.named_children()))),
    "get_submodule": lambda net: repr((net.get_submodule("2"), net.get_parameter("2.bias").shape)),
    "extra_state": lambda net: list(net.state_dict(prefix="a.")),
    "train": lambda net: net.train(False).training,
    "wrong index": lambda net: net[17],
    "wrong child": lambda net: net.append(3),
    "wrong state": lambda net: net.load_state_dict({"0.weight": torch.ones(2)}),
    "no argument": lambda net: net(),
    "two arguments": lambda net: net(rows(), rows()),
    "wrong keyword": lambda net: net(x=rows()),
}


@pytest.mark.parametrize("case", LISTS)
def test_as_a_list(case: str) -> None:
    """The same answer, or the same error but for the class's name."""
    found = []
    for net in pair("deep"):
        try:
            found.append(LISTS[case](net))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}".replace("_by_hand", "forward"))
    assert found[0] == found[1]


def test_what_it_is() -> None:
    ours, theirs = pair("deep")
    assert isinstance(ours, nn.Sequential) and repr(ours) == repr(theirs)
    assert type(ours[:2]) is manualbp.Sequential and is_by_hand(ours[:2](rows()))
    assert type(ours + theirs) is type(ours * 2) is type(2 * ours) is manualbp.Sequential
    mlp = manualbp.MLP((6, 9, 3))
    assert type(mlp[1:]) is manualbp.Sequential and repr(mlp[1:]) == repr(nn.Sequential(*mlp)[1:])
    named = manualbp.Sequential(OrderedDict(one=nn.Linear(6, 3), two=nn.Tanh()))
    assert repr(named.one) == repr(nn.Linear(6, 3)) and is_by_hand(named.double()(rows()))
    assert hash(ours) != hash(theirs) and ours != theirs and bool(ours)


@pytest.mark.parametrize("name", NAMES)
def test_forward_called_directly(name: str) -> None:
    """As some wrappers do; also nn.Sequential's own forward on ours."""
    ours, theirs = pair(name)
    torch.manual_seed(0)
    found = ours.forward(rows())
    torch.manual_seed(0)
    assert unequal(found, theirs.forward(rows())) == ""


def test_subclasses_with_a_forward_of_their_own() -> None:
    """super().forward, and one that walks over the children."""

    def classes(base: type[nn.Module]) -> list[type[nn.Module]]:
        class Scaled(base):  # type: ignore[valid-type, misc]
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x)

        class Walking(base):  # type: ignore[valid-type, misc]
            def forward(self, x: Tensor) -> Tensor:
                for child in self.children():
                    x = child(x)
                return x

        return [Scaled, Walking]

    for ours, theirs in zip(classes(manualbp.Sequential), classes(nn.Sequential), strict=True):
        twin = pair("deep")[1]
        made = ours(*copy.deepcopy(list(twin)))
        assert unequal(backpropagated(made), backpropagated(theirs(*twin))) == ""
