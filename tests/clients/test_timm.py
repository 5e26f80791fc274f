"""timm: a small vision transformer whose Mlp blocks (fc1, act, drop1, norm, fc2, drop2) convert."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn

import manualbp
from tests.helpers import differing, fitted

pytestmark = pytest.mark.clients

STEPS, DEPTH = 8, 2


def vit(by_hand: bool, drop: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=DEPTH, num_classes=5,
        proj_drop_rate=drop,
    )  # fmt: skip
    return manualbp.convert(model) if by_hand else model


def trained(by_hand: bool, drop: float = 0.0) -> dict[str, Tensor]:
    """Every loss, the weights at the end."""
    model = vit(by_hand, drop)
    x, y = torch.randn(16, 3, 32, 32), torch.randint(0, 5, (16,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return fitted(model, optimizer, x, y, STEPS)


@pytest.mark.parametrize("drop", [0.0, 0.1])
def test_same_training(drop: float, calls: Counter[str]) -> None:
    """Bit-exact: every loss and all weights, the dropout's draws included."""
    theirs = trained(by_hand=False, drop=drop)
    assert not calls
    ours = trained(by_hand=True, drop=drop)
    assert calls["Chain"] >= STEPS * DEPTH
    assert differing(ours, theirs) == []
    assert ours["losses"][-1] < ours["losses"][0]


def test_blocks_stay_what_they_are() -> None:
    """Converted, a block is an Mlp still, with the same state_dict, and runs by hand."""
    model, theirs = vit(by_hand=True), vit(by_hand=False)
    assert list(model.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 17, 192)
    for block in model.blocks:
        assert isinstance(block.mlp, Mlp)
        assert type(block.mlp(x).grad_fn).__name__ == "ChainBackward"


def test_pickled() -> None:
    """A pickled model comes back converted; bit-exact."""
    model = vit(by_hand=True)
    again = pickle.loads(pickle.dumps(model))
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(by_hand=True), trained(by_hand=False))
