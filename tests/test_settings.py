"""set_mode and set_memory on a model: who has a choice, and who is told that it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import manualbp
from manualbp.settings import choices_of

SETTINGS = [(manualbp.set_mode, "fast"), (manualbp.set_memory, "low")]


class Mine(manualbp.Sequential):
    pass


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.fc2(self.fc1(x).relu())


@pytest.mark.parametrize(("setting", "choice"), SETTINGS)
def test_a_model_without_a_module_of_ours(setting: Callable[..., Any], choice: str) -> None:
    """One warning, at the line of the caller; a later convert makes the choice count."""
    for model in (nn.Sequential(nn.Linear(3, 4), nn.ReLU()), Block()):
        words = rf"{type(model).__name__} has no module of manualbp, so {setting.__name__} changes "
        with pytest.warns(UserWarning, match=words) as seen:
            setting(choice, model)
        assert [w.filename for w in seen] == [__file__]
        assert choice in choices_of(manualbp.convert(model))
        setting(choice, model)  # and now without a warning, which would be an error here


@pytest.mark.parametrize(("setting", "choice"), SETTINGS)
def test_models_with_a_module_of_ours(setting: Callable[..., Any], choice: str) -> None:
    for model in (
        Mine(nn.Linear(3, 4)),
        nn.ModuleDict({"head": manualbp.MLP((3, 4)), "conv": nn.Conv1d(1, 1, 1)}),
        manualbp.FusedLoss(nn.Sequential(nn.Linear(3, 4)), nn.MSELoss()),
        manualbp.GatedMLP(3, 4),
        manualbp.L1Loss(),
        manualbp.convert(Block()),
    ):
        setting(choice, model)
        assert choice in choices_of(model)
