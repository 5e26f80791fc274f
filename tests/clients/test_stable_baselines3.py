"""stable-baselines3: PPO on CartPole, the policy's networks converted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from stable_baselines3 import PPO
from torch import Tensor

import manualbp
from tests.helpers import differing

pytestmark = pytest.mark.clients

STEPS, ROLLOUT, BATCH, EPOCHS = 2048, 256, 64, 4


def trained(by_hand: bool) -> dict[str, Tensor]:
    """The rewards and lengths of the last episodes, the last loss, the weights at the end."""
    model = PPO(
        "MlpPolicy", "CartPole-v1", n_steps=ROLLOUT, batch_size=BATCH, n_epochs=EPOCHS, seed=0,
        learning_rate=1e-3, device="cpu",
    )  # fmt: skip
    if by_hand:
        manualbp.convert(model.policy)
    model.learn(STEPS)
    episodes = torch.tensor([(e["r"], e["l"]) for e in model.ep_info_buffer])
    loss = torch.tensor(model.logger.name_to_value["train/loss"])
    return {"episodes": episodes, "loss": loss, **model.policy.state_dict()}


def test_same_policy(calls: Counter[str]) -> None:
    """Bit-exact: the episodes played, the loss and all weights."""
    theirs = trained(by_hand=False)
    assert not calls
    ours = trained(by_hand=True)
    updates = STEPS // ROLLOUT * EPOCHS * (ROLLOUT // BATCH)
    assert calls["Chain"] == 2 * updates  # the policy's network and the value's
    assert differing(ours, theirs) == []
    assert len(ours["episodes"]) > 20


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(by_hand=True), trained(by_hand=False))
