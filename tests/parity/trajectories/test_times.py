"""Which arm goes first, and what a step's time is the time of."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from manualbp.parity import Arm, SideBySide, Step, train_side_by_side
from manualbp.parity.step_record import ArmStep
from manualbp.parity.trajectories import side_by_side

BATCHES = [(torch.ones(6, 4), torch.ones(6, 2))] * 4


def arms(**metrics: Callable[..., float]) -> tuple[Arm, Arm]:
    candidate, reference = nn.Linear(4, 2), nn.Linear(4, 2)
    candidate.load_state_dict(reference.state_dict())
    return (
        Arm("candidate", candidate, nn.MSELoss(), torch.optim.SGD(candidate.parameters()), metrics),
        Arm("reference", reference, nn.MSELoss(), torch.optim.SGD(reference.parameters()), metrics),
    )


def test_arms_take_turns_in_going_first() -> None:
    order: list[str] = []
    candidate, reference = arms()
    for arm in (candidate, reference):
        arm.module.register_forward_pre_hook(lambda *_, name=arm.name: order.append(name))
    assert len(list(train_side_by_side(candidate, reference, BATCHES))) == 4
    turn = ["candidate", "reference"]
    assert order == [*turn, *reversed(turn), *turn, *reversed(turn)]


def test_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, loss, backward and update, no metric; by a clock that they move themselves."""
    now = 0.0

    def takes(seconds: float) -> Callable[..., None]:
        def pass_time(*_: object) -> None:
            nonlocal now
            now += seconds

        return pass_time

    monkeypatch.setattr(side_by_side, "time", SimpleNamespace(perf_counter=lambda: now))
    candidate, reference = arms(slow=takes(1e6))
    for arm, unit in ((candidate, 1.0), (reference, 5.0)):
        arm.module.register_forward_hook(takes(unit))
        arm.loss.register_forward_hook(takes(10 * unit))
        arm.module.weight.register_hook(takes(100 * unit))
        arm.optimizer.register_step_post_hook(takes(1000 * unit))
    for step in train_side_by_side(candidate, reference, BATCHES):
        assert (step.candidate.seconds, step.reference.seconds) == (1111.0, 5555.0)


def test_times_go_to_their_arm() -> None:
    def arm(seconds: float) -> ArmStep:
        return ArmStep({"loss": 1.0}, 0.1, {}, seconds)

    report = SideBySide()
    report.add(Step(1, arm(0.001), arm(0.003), {}))
    assert report.seconds == {"candidate": [0.001], "reference": [0.003]}
    assert report.milliseconds("reference") == 3.0
