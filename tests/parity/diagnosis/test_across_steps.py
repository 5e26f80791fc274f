"""Kinds of wrong that only a training shows, each planted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity.training import compare_training
from manualbp.parity.training_record import TrainingReport, Trajectory
from tests.parity.training_pairs import (
    batches,
    net,
    other,
)

F32, F64 = torch.float32, torch.float64


def compare(candidate: nn.Module, reference: nn.Module, **options: Any) -> TrainingReport:
    """12 steps, SGD, float32, where nothing else is asked for."""
    given = {"optimizers": ("sgd",), "steps": 12, "dtypes": (F32,), "data": batches()} | options
    return compare_training(candidate, reference, given.pop("data"), nn.MSELoss(), **given)


UPDATES: dict[str, Any] = {
    "learning rate": (lambda p: torch.optim.SGD(p, 0.01001), lambda p: torch.optim.SGD(p, 0.01)),
    "weight decay": (
        lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.02),
        lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.01),
    ),
    "betas": (
        lambda p: torch.optim.Adam(p, 1e-3, betas=(0.9, 0.998)),
        lambda p: torch.optim.Adam(p, 1e-3),
    ),
}


@pytest.mark.parametrize("update", UPDATES)
def test_a_wrong_update_is_caught_though_every_gradient_is_right(update: str) -> None:
    reference = net()
    pair = {update: UPDATES[update]}
    for run in compare(other(reference), reference, optimizers=pair, dtypes=(F32, F64)).runs:
        assert run.forced is None and run.outside is not None and run.outside.step <= 3
        assert [f.kind for f in run.findings] == ["update"]


def test_a_wrong_buffer_is_caught() -> None:
    reference = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    candidate = copy.deepcopy(reference)
    candidate[1].momentum = 0.1001
    (run,) = compare(candidate, reference).runs
    assert run.outside is not None and run.outside.step == 1 and run.forced is None
    assert set(run.outside.tensors) == {"1.running_mean", "1.running_var"}
    assert [f.kind for f in run.findings] == ["buffer"]


def test_a_loss_that_is_off_alone() -> None:
    reference = net()
    off: Any = lambda o, y: nn.functional.mse_loss(o, y) + 1e-3  # noqa: E731
    (run,) = compare(other(reference), reference, candidate_loss=off).runs
    assert run.outside is not None and run.outside.tensors == ("loss",)
    assert run.forced is not None and run.forced.tensors == ("loss",)
    assert {f.kind for f in run.findings} == {"loss"}


class Bad(torch.autograd.Function):
    """Hands the gradient on as ``change`` makes it."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, change: Any) -> Tensor:
        ctx.change = change
        return w.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return ctx.change(g), None


class Changed(nn.Linear):
    def __init__(self, change: Any) -> None:
        super().__init__(4, 2)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.rows = len(x)
        return nn.functional.linear(x, Bad.apply(self.weight, self.change), self.bias)


def kinds(change: Any, data: Any = None, **options: Any) -> tuple[Trajectory, list[str]]:
    torch.manual_seed(0)
    reference, candidate = nn.Linear(4, 2), Changed(change)
    candidate.load_state_dict(reference.state_dict())
    (run,) = compare(candidate, reference, data=data or batches(), **options).runs
    return run, [finding.kind for finding in run.findings]


@pytest.mark.parametrize("forced", [False, True])
def test_a_stale_gradient_is_named(forced: bool) -> None:
    before: list[Tensor] = []

    def stale(g: Tensor) -> Tensor:
        before.append(g)
        return before[-2] if len(before) > 1 else g

    run, found = kinds(stale, teacher_forced=forced)
    assert run.outside is not None and run.outside.step == 2 and found == ["stale"]


@pytest.mark.parametrize("forced", [False, True])
def test_an_accumulated_gradient_is_named(forced: bool) -> None:
    total: list[Tensor] = []

    def accumulated(g: Tensor) -> Tensor:
        total.append(g + total[-1] if total else g)
        return total[-1]

    run, found = kinds(accumulated, teacher_forced=forced)
    assert run.outside is not None and run.outside.step == 2 and found == ["accumulated"]


def test_a_gradient_wrong_in_the_last_batch_is_named() -> None:
    rows = iter([8, 8] * 4 + [6, 6] + [8] * 99)
    run, found = kinds(lambda g: g * next(rows) / 8, batches(last=6))
    assert run.forced is not None and run.forced.step == 5 and found == ["last batch"]
    assert "0.75 = 6/8" in run.findings[0].words
