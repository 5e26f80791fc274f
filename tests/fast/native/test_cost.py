"""A loss as one C++ node: torch.nn's bits, with every option."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast import native

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")

REDUCTIONS = ["mean", "sum", "none"]
W = torch.tensor([0.5, 1.0, 2.0, 0.1])


def cases() -> Iterator[tuple[str, dict[str, Any], str]]:
    for name in ("MSELoss", "L1Loss"):
        yield name, {}, "numbers"
    for delta in (0.3, 1.0):
        yield "HuberLoss", {"delta": delta}, "numbers"
    for beta in (0.0, 0.4):
        yield "SmoothL1Loss", {"beta": beta}, "numbers"
    for weight, pos_weight in itertools.product((None, W), repeat=2):
        yield "BCEWithLogitsLoss", {"weight": weight, "pos_weight": pos_weight}, "unit"
    for weight, e, kind in itertools.product(
        (None, W), (0.0, 0.2), ("indices", "probabilities", "some ignored", "all ignored")
    ):
        yield "CrossEntropyLoss", {"weight": weight, "label_smoothing": e}, kind


CASES = list(cases())


def target(kind: str, o: Tensor) -> Tensor:
    indices = torch.arange(len(o)) % o.shape[1]
    if "ignored" in kind:
        indices[: None if kind == "all ignored" else 3] = -100
    if kind in ("indices", "some ignored", "all ignored"):
        return indices
    y = torch.randn_like(o)
    return y if kind == "numbers" else y.sigmoid() if kind == "unit" else y.softmax(-1)


def pair(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> list[Any]:
    typed = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
    return [getattr(home, name)(**typed) for home in (manualbp, nn)]


def is_native(cost: Tensor) -> bool:
    try:
        weakref.ref(cost.grad_fn)
    except TypeError:
        return type(cost.grad_fn).__name__ == "CostBackward"
    return False


def wrong(losses: list[Any], o: Tensor, y: Tensor) -> list[int]:
    """Calls in which C or dC/do differs in a bit; the first is served by Python, others not."""
    found = []
    for i in range(3):
        ours, theirs = (loss(o, y) for loss in losses)
        assert is_native(ours)
        g = torch.randn_like(ours)
        a, b = (torch.autograd.grad(cost, o, g)[0] for cost in (ours, theirs))
        same = torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
        if not (same and torch.equal(a.nan_to_num(7), b.nan_to_num(7))):
            found.append(i)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "options", "kind"), CASES)
def test_bits(name: str, options: dict[str, Any], kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    o = torch.randn(9, 4, dtype=dtype, requires_grad=True)
    for reduction in REDUCTIONS:
        losses = pair(name, {**options, "reduction": reduction}, dtype)
        assert wrong(losses, o, target(kind, o)) == []


@pytest.mark.parametrize(("name", "options", "kind"), CASES)
def test_second_order(name: str, options: dict[str, Any], kind: str) -> None:
    """The first bit-exact; the second in fp64 to 1e-12."""
    torch.manual_seed(0)
    o = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    y, found = target(kind, o), []
    for loss in pair(name, options, torch.float64):
        g = torch.autograd.grad(loss(o.sin(), y), o, create_graph=True)[0]
        found.append((g, torch.autograd.grad(g.square().sum(), o)[0]))
    assert torch.equal(found[0][0].nan_to_num(7), found[1][0].nan_to_num(7))
    torch.testing.assert_close(*[f[1] for f in found], rtol=1e-12, atol=1e-12, equal_nan=True)


def test_changed_options() -> None:
    """Seen by the guard: reduction, numbers, weights, and a weight edited in place."""
    o, y = torch.randn(9, 4, requires_grad=True), torch.arange(9) % 4
    losses = pair("CrossEntropyLoss", {"weight": W})
    changes: list[Any] = [
        ("reduction", "sum"), ("label_smoothing", 0.1), ("ignore_index", 2), ("weight", W.flip(0)),
        ("weight", None), ("weight", W.clone()),
    ]  # fmt: skip
    for name, value in changes:
        for loss in losses:
            setattr(loss, name, value if value is None or name != "weight" else value.clone())
        assert wrong(losses, o, y) == [], name
    for loss in losses:
        loss.weight.mul_(3)
    assert wrong(losses, o, y) == []
    with pytest.raises(IndexError, match=r"class indices must be in 0\.\.\.3"):
        losses[0](o, y + 1)


def test_planted_other_number_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from manualbp.fast.native import exact
    from manualbp.maths.losses import Huber

    monkeypatch.setitem(exact._NUMBER, Huber, lambda m: m.delta * 1.01)
    o = torch.randn(9, 4, requires_grad=True)
    assert wrong(pair("HuberLoss", {"delta": 0.5}), o, torch.randn(9, 4)) == [0, 1, 2]
