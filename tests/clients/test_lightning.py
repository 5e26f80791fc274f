"""Lightning: a converted LightningModule in a Trainer, with Adam, clipping and validation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import manualbp
from tests.helpers import differing

pytestmark = [
    pytest.mark.clients,
    # Lightning's own: advice on speed, and a class of torch's it asks for by its old name.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]

EPOCHS = 3


class Classifier(lightning.LightningModule):
    """A network with a dropout in the middle; keeps every loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(20, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 16), nn.Tanh(),
            nn.Linear(16, 3),
        )  # fmt: skip
        self.losses: list[Tensor] = []

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(loss.detach())
        return loss

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("validation", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def trained(by_hand: bool) -> dict[str, Tensor]:
    """Every loss of training and validation, and the weights at the end."""
    torch.manual_seed(0)
    x = torch.randn(256, 20)
    y = (x[:, :3] + x[:, 3:6] * x[:, 6:9]).argmax(1)
    model = Classifier()
    if by_hand:
        manualbp.convert(model)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, gradient_clip_val=0.5, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    training = DataLoader(TensorDataset(x[:192], y[:192]), batch_size=32, shuffle=True)
    validation = DataLoader(TensorDataset(x[192:], y[192:]), batch_size=64)
    trainer.fit(model, training, validation)
    return {"losses": torch.stack(model.losses), **model.state_dict()}


def test_same_fit(calls: Counter[str]) -> None:
    """Bit-exact: every loss and all weights."""
    theirs = trained(by_hand=False)
    assert not calls
    ours = trained(by_hand=True)
    assert calls["Chain"] >= EPOCHS * 6
    assert differing(ours, theirs) == []
    assert ours["losses"][-1] < ours["losses"][0]


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(by_hand=True), trained(by_hand=False))
