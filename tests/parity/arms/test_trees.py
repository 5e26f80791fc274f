"""Nested values: dataclasses and other objects are opened, changed as copies, shown by fields."""

from __future__ import annotations

import copy
import types
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manualbp.parity import compare_gradients, compare_training
from manualbp.parity.arms.trees import leaves, mapped, structure

A, B = torch.zeros(2), torch.ones(3)


@dataclass
class Out:
    logits: Tensor
    hidden: Any = ()
    loss: Any = None


@dataclass(frozen=True)
class Batch:
    x: Tensor
    rows: int = 4


@dataclass
class Same:
    """Other fields in another class, and one of the same names."""

    logits: Tensor
    hidden: Any = ()
    loss: Any = None


class Table(dict[str, Any]):
    pass


class Plain:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


class Pair(NamedTuple):
    left: Any
    right: Any


def names(tree: Any) -> list[str]:
    return [pytree.keystr(path) for path, leaf in leaves(tree) if isinstance(leaf, Tensor)]


NESTED: list[tuple[Any, list[str], str]] = [
    (A, [""], "tensor"),
    (Out(A, (B,)), [".logits", ".hidden[0]"], "(logits=tensor, hidden=(tensor,), loss=None)"),
    (Batch(A), [".x"], "(x=tensor, rows=4)"),
    ((1, Batch(A, 7)), ["[1].x"], "(1, (x=tensor, rows=7))"),
    (Pair(Batch(A), B), [".left.x", ".right"], "Pair(left=(x=tensor, rows=4), right=tensor)"),
    (Table(a=A, n=2), ["['a']"], "Table('a'=tensor, 'n'=2)"),
    (Plain(a=[A, B]), [".a[0]", ".a[1]"], "Plain(a=[tensor, tensor])"),
    (types.SimpleNamespace(a=A), [".a"], "SimpleNamespace(a=tensor)"),
    (torch.distributions.Normal(A, B[:2]), [".loc", ".scale"],
     "Normal(loc=tensor, scale=tensor, _batch_shape=(2,), _event_shape=())"),
    ((A, nn.Linear(1, 1)), ["[0]"], "(tensor, Linear(in_features=1, out_features=1, bias=True))"),
    ((A, object()), ["[0]"], "(tensor, <object object>)"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "paths", "shown"), NESTED, ids=[shown for *_, shown in NESTED])
def test_objects_are_opened(tree: Any, paths: list[str], shown: str) -> None:
    assert names(tree) == paths
    assert structure(tree) == shown


@pytest.mark.parametrize("tree", [tree for tree, *_ in NESTED[1:8]])
def test_what_is_changed_is_a_copy(tree: Any) -> None:
    before = [leaf for _, leaf in leaves(tree)]
    other = mapped(lambda _, leaf: leaf + 1 if isinstance(leaf, Tensor) else leaf, tree)
    assert type(other) is type(tree) and structure(other) == structure(tree)
    assert all(a is b for a, (_, b) in zip(before, leaves(tree), strict=True))
    for old, (_, new) in zip(before, leaves(other), strict=True):
        assert torch.equal(new, old + 1) if isinstance(old, Tensor) else new is old
    assert mapped(lambda _, leaf: leaf, tree) is tree


def test_an_object_that_contains_itself_is_opened_once() -> None:
    own = Plain(a=A)
    own.own = own
    assert names(own) == [".a"]
    assert mapped(lambda _, leaf: leaf, own) is own


class Net(nn.Module):
    """Gradients in front of the last layer are ``factor`` times what they should be."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.factor = nn.Linear(3, 4), nn.Linear(4, 2), factor

    def forward(self, batch: Batch) -> Out:
        hidden = torch.tanh(self.first(batch.x))
        if hidden.requires_grad and self.factor != 1:
            hidden.register_hook(lambda gradient: gradient * self.factor)
        return Out(self.last(hidden), (hidden,))


class Renamed(Net):
    def forward(self, batch: Batch) -> Any:
        found = super().forward(batch)
        return Same(found.logits, found.hidden)


def inputs(seed: int) -> tuple[Batch]:
    return (Batch(torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))),)


def loss(output: Out, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(output.logits, target)


def test_arms_that_take_and_return_objects() -> None:
    """Outputs are named by their fields; another class with the same fields is the same."""
    also = ("second_order", "forward_mode", "vmap")
    report = compare_gradients(Renamed(), Net(), inputs, also=also, dtype=torch.float64)
    assert report.agrees
    assert {"output.logits", "output.hidden[0]", "input.x.grad"} <= {t.name for t in report.tensors}
    wrong = compare_gradients(Net(1.5), Net(), inputs, loss, target=torch.ones(6, 2))
    assert [t.name for t in wrong.differing] == ["input.x.grad", "first.weight.grad",
                                                 "first.bias.grad"]  # fmt: skip
    assert wrong.findings[0].kind == "factor"


def test_trainings_with_objects() -> None:
    data = [(inputs(0), torch.ones(6, 2))]
    options: dict[str, Any] = {"steps": 3, "optimizers": "sgd", "dtypes": (torch.float32,)}
    reference = Net()
    assert compare_training(copy.deepcopy(reference), reference, data, loss, **options).agrees
    (run,) = compare_training(Net(1.5), reference, data, loss, **options).runs
    assert run.forced is not None and run.forced.step == 1
    assert set(run.forced.tensors) == {"first.weight.grad", "first.bias.grad"}


def test_a_field_that_is_missing_or_another_is_a_difference() -> None:
    report = compare_gradients(
        lambda x: Out(x * 2, loss=3), lambda x: Out(x * 2), torch.ones(2, 3), power=False
    )
    (wrong,) = report.differing
    assert wrong.reason == ("structure (logits=tensor, hidden=(), loss=3), expected "
                            "(logits=tensor, hidden=(), loss=None)")  # fmt: skip
