"""GradientDescent against torch.optim.SGD: bit-exact."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import manualbp
from manualbp import fast
from manualbp.maths import descent
from tests.versions import TAKES_LR_IN_A_LIST


@pytest.fixture(params=["native", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to the update."""
    if request.param == "python":
        monkeypatch.setattr(fast.native, "library", lambda: None)
    elif fast.native.library() is None:
        pytest.skip("the native step is not built")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_bit_identical_with_sgd(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = manualbp.MLP((4, 8, 2), dtype=dtype)
    twin = copy.deepcopy(model)
    groups = [
        [{"params": m[0].parameters()}, {"params": m[2].parameters(), "lr": 0.3}]
        for m in (model, twin)
    ]
    ours, theirs = manualbp.GradientDescent(groups[0], lr=0.07), torch.optim.SGD(groups[1], lr=0.07)
    for net, optimizer in ((model, ours), (twin, theirs)):
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        torch.manual_seed(1)
        for _ in range(20):
            optimizer.zero_grad()
            net(torch.randn(5, 4).to(dtype)).pow(2).mean().backward()
            optimizer.step()
            schedule.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.isfinite(ours).all() and torch.equal(ours, theirs)


def test_closure_and_missing_gradient() -> None:
    w, idle = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(5.0))
    optimizer = manualbp.GradientDescent([w, idle], lr=0.25)

    def cost() -> torch.Tensor:
        optimizer.zero_grad()
        value = w * w
        value.backward()
        return value

    assert optimizer.step(cost) == 4.0 and w.item() == 1.0 and idle.item() == 5.0  # 2 - 0.25 * 4


def test_planted_sign_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = fast.descend
    monkeypatch.setattr(fast, "descend", lambda w, epsilon: original(w, -epsilon))
    with pytest.raises(AssertionError):
        test_bit_identical_with_sgd(torch.float32)


def two(w: torch.Tensor, g: torch.Tensor, lr: Any = 0.07) -> tuple[torch.Tensor, ...]:
    """w after a step of ours, and after one of torch.optim.SGD."""
    found = []
    for kind in (manualbp.GradientDescent, torch.optim.SGD):
        p = nn.Parameter(w.clone())
        p.grad = g.clone()
        kind([p], lr).step()
        found.append(p.detach())
    return tuple(found)


def test_kinds_of_gradients() -> None:
    """Each rounds, and fails, as torch.optim.SGD does."""
    torch.manual_seed(0)
    w, g = torch.randn(7, 5), torch.randn(7, 5)
    learned = torch.tensor(0.07, requires_grad=True)
    for case in (
        (w, g.to_sparse(1)),
        (w + 1j * g, g - 1j * w),
        (w.half(), g.half()),
        (w.t(), g.t().contiguous()),
        (w[:0], g[:0]),
        (w, g, torch.tensor([0.07] if TAKES_LR_IN_A_LIST else 0.07)),
        (w, g, learned),
    ):
        ours, theirs = two(*case)
        assert torch.equal(ours, theirs) and (not len(ours) or not torch.equal(ours, case[0]))


def test_counts_as_an_edit_in_place() -> None:
    w = nn.Parameter(torch.ones(3))
    cost = (w * w).sum()
    w.grad = torch.ones(3)
    before = w._version
    manualbp.GradientDescent([w]).step()
    assert w._version == before + 1 and w.requires_grad and w.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cost.backward()


def test_hooks_groups_and_the_default() -> None:
    w, v = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(2.0))
    w.grad, v.grad = torch.tensor(1.0), torch.tensor(1.0)
    assert manualbp.GradientDescent([w]).defaults["lr"] == 1e-3
    optimizer = manualbp.GradientDescent([{"params": [w], "lr": 0.5}, {"params": v, "lr": 0.25}])
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(w.item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(w.item()))
    optimizer.step()
    assert seen == [2.0, 1.5] and v.item() == 1.75


def test_one_call_of_the_library(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is there; but what watches PyTorch's functions, and subclasses, see their add_."""
    formula: list[Any] = []
    monkeypatch.setattr(descent, "descend", lambda w, epsilon: formula.append(w))

    class Wrapped(torch.Tensor):
        pass

    class Watch(TorchFunctionMode):
        def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return f(*args, **(kwargs or {}))

    optimizer = manualbp.GradientDescent([w := nn.Parameter(torch.ones(2))])
    w.grad = torch.ones(2)
    optimizer.step()
    assert len(formula) == (way == "python")
    with Watch():
        optimizer.step()
    manualbp.GradientDescent([torch.ones(2).as_subclass(Wrapped)]).step()
    assert len(formula) == 2 + (way == "python")


@pytest.mark.parametrize("lr", [0, -0.1, float("nan"), float("inf"), "fast", None, True])
def test_lr_must_be_positive(lr: object) -> None:
    """The kind of error is torch.optim.SGD's, where that has one."""
    w = nn.Parameter(torch.zeros(1))
    kind = ValueError if isinstance(lr, (int, float)) else TypeError
    with pytest.raises(kind, match="lr must be a finite number > 0, got"):
        manualbp.GradientDescent([w], lr)
    with pytest.raises(kind, match="lr must be a finite number > 0, got"):
        manualbp.GradientDescent([{"params": [w], "lr": lr}], 0.1)
    optimizer = manualbp.GradientDescent([w], 0.1)
    with pytest.raises(kind, match="lr must be a finite number > 0, got"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": lr})
    assert len(optimizer.param_groups) == 1


def test_any_kind_of_number_is_a_learning_rate() -> None:
    for lr in (1, np.float32(0.5), torch.tensor(0.25)):
        w = nn.Parameter(torch.tensor(2.0))
        optimizer = manualbp.GradientDescent([w], lr)
        w.grad = torch.tensor(1.0)
        optimizer.step()
        assert w.item() == 2.0 - float(lr)
