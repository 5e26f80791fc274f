"""Accelerate: a prepared loop on CPU, with accumulated and clipped gradients."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import manualbp
from tests.helpers import differing

pytestmark = pytest.mark.clients

EPOCHS = 3


def trained(by_hand: bool) -> dict[str, Tensor]:
    """Every loss and gradient norm, and the weights at the end."""
    torch.manual_seed(0)
    x = torch.randn(240, 10)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3].sin()
    kind = manualbp.Sequential if by_hand else nn.Sequential
    model = kind(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    criterion = manualbp.MSELoss() if by_hand else nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    loader = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    losses, norms = [], []
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = criterion(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norms.append(accelerator.clip_grad_norm_(model.parameters(), 1.0))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
    weights = accelerator.unwrap_model(model).state_dict()
    return {"losses": torch.stack(losses), "norms": torch.stack(norms), **weights}


def test_same_loop(calls: Counter[str]) -> None:
    """Bit-exact: every loss, every norm and all weights."""
    theirs = trained(by_hand=False)
    assert not calls
    ours = trained(by_hand=True)
    assert calls["Chain"] == calls["Cost"] == EPOCHS * 10
    assert len(ours["norms"]) == EPOCHS * 5
    assert differing(ours, theirs) == []
    assert ours["losses"][-1] < ours["losses"][0]


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(by_hand=True), trained(by_hand=False))
