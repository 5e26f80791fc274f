"""torchvision: ops.MLP, a subclass of nn.Sequential, by itself and in a vision transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.ops import MLP

import manualbp
from tests.helpers import differing, fitted

pytestmark = pytest.mark.clients

STEPS = 8


def has_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and any(type(m) is nn.Linear for m in module)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), MLP(3 * 16 * 16, [32, 16, 5], activation_layer=nn.ReLU))


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), MLP(3 * 16 * 16, [32, 5], norm_layer=nn.LayerNorm, dropout=0.1)
    )


def vit() -> nn.Module:
    return VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        dropout=0.1, num_classes=5,
    )  # fmt: skip


MODELS = [mlp, normed, vit]


def trained(make: Callable[[], nn.Module], by_hand: bool) -> dict[str, Tensor]:
    """Every loss, the weights at the end."""
    torch.manual_seed(0)
    model = make()
    if by_hand:
        manualbp.convert(model)
    x, y = torch.randn(16, 3, 16, 16), torch.randint(0, 5, (16,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return fitted(model, optimizer, x, y, STEPS)


@pytest.mark.parametrize("make", MODELS)
def test_same_training(make: Callable[[], nn.Module], calls: Counter[str]) -> None:
    """Bit-exact: every loss and all weights, the dropout's draws included."""
    theirs = trained(make, by_hand=False)
    assert not calls
    ours = trained(make, by_hand=True)
    assert calls["Chain"] >= STEPS * sum(map(has_linear, make().modules()))
    assert differing(ours, theirs) == []
    assert ours["losses"][-1] < ours["losses"][0]


@pytest.mark.parametrize("make", MODELS)
def test_blocks_stay_what_they_are(make: Callable[[], nn.Module]) -> None:
    """Converted, every MLP is one still, with the same state_dict, and runs by hand."""
    model, theirs = manualbp.convert(make()).eval(), make()
    assert list(model.state_dict()) == list(theirs.state_dict())
    blocks = [module for module in model.modules() if isinstance(module, MLP)]
    assert len(blocks) == sum(isinstance(module, MLP) for module in theirs.modules()) > 0
    for block in blocks:
        output = block(torch.randn(2, block[0].in_features))
        assert type(output.grad_fn).__name__ == "ChainBackward"


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("make", MODELS)
def test_planted_fault_is_caught(make: Callable[[], nn.Module]) -> None:
    assert differing(trained(make, by_hand=True), trained(make, by_hand=False))
