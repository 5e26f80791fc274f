"""Losses of trainings side by side in float64 keep their digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manualbp.parity.trajectories.side_by_side import Arm, train_side_by_side


def arm(name: str, loss: float) -> Arm:
    def constant(output: Tensor, target: Tensor) -> Tensor:
        return loss + 0 * (output - target).sum()

    torch.manual_seed(0)
    module = nn.Linear(1, 1, dtype=torch.float64)
    return Arm(name, module, constant, torch.optim.SGD(module.parameters(), 0.1))


def test_a_loss_is_not_rounded_to_float32() -> None:
    """1e-12 apart, exact: in float32 both are 1."""
    x = torch.ones(2, 1, dtype=torch.float64)
    (step,) = train_side_by_side(arm("candidate", 1 + 1e-12), arm("reference", 1.0), [(x, x)])
    assert step.divergence["loss"] == (1 + 1e-12) - 1
