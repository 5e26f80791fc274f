"""GradientDescent against torch.optim.SGD: bit-exact."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import manualbp


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
    original = torch.Tensor.add_
    monkeypatch.setattr(
        torch.Tensor, "add_", lambda self, g, alpha=1: original(self, g, alpha=abs(alpha))
    )
    w = nn.Parameter(torch.tensor(2.0))
    optimizer = manualbp.GradientDescent([w], lr=0.25)
    w.grad = torch.tensor(4.0)
    optimizer.step()
    assert w.item() != 1.0


@pytest.mark.parametrize("lr", [0, -0.1, float("nan"), float("inf"), "fast", None, True])
def test_lr_must_be_positive(lr: object) -> None:
    w = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="lr must be a finite number > 0, got"):
        manualbp.GradientDescent([w], lr)
    with pytest.raises(ValueError, match="lr must be a finite number > 0, got"):
        manualbp.GradientDescent([{"params": [w], "lr": lr}], 0.1)
    optimizer = manualbp.GradientDescent([w], 0.1)
    with pytest.raises(ValueError, match="lr must be a finite number > 0, got"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": lr})
    assert len(optimizer.param_groups) == 1


def test_any_kind_of_number_is_a_learning_rate() -> None:
    for lr in (1, np.float32(0.5), torch.tensor(0.25)):
        w = nn.Parameter(torch.tensor(2.0))
        optimizer = manualbp.GradientDescent([w], lr)
        w.grad = torch.tensor(1.0)
        optimizer.step()
        assert w.item() == 2.0 - float(lr)
