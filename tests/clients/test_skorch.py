"""skorch: a grid search of scikit-learn's over a network in NeuralNetClassifier."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from torch import Tensor, nn

import manualbp
from tests.helpers import differing

pytestmark = pytest.mark.clients

GRID = {"lr": [0.1, 0.5], "module__hidden": [8, 32]}
FOLDS, EPOCHS = 3, 4


class Net(nn.Module):
    """Two layers; ``kind`` is what they stand in."""

    def __init__(self, kind: type[nn.Sequential], hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)  # here: the search makes many of these
        self.layers = kind(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def trained(by_hand: bool) -> dict[str, Tensor]:
    """Every score of the search, its choice, and the losses and weights of the refitted net."""
    x, y = load_digits(return_X_y=True)
    x, y = (x[:500] / 16).astype(np.float32), y[:500].astype(np.int64)
    net = NeuralNetClassifier(
        Net,
        module__kind=manualbp.Sequential if by_hand else nn.Sequential,
        criterion=manualbp.CrossEntropyLoss if by_hand else nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        max_epochs=EPOCHS,
        batch_size=50,
        verbose=0,
    )
    search = GridSearchCV(net, GRID, cv=FOLDS, return_train_score=True).fit(x, y)
    found = {k: torch.tensor(v) for k, v in search.cv_results_.items() if k.endswith("_score")}
    found |= {f"best {k}": torch.tensor(v) for k, v in search.best_params_.items()}
    best = search.best_estimator_
    losses = best.history[:, ("train_loss", "valid_loss")]
    return {**found, "losses": torch.tensor(losses), **best.module_.state_dict()}


def test_same_grid_search(calls: Counter[str]) -> None:
    """Bit-exact: scores, the parameters chosen, losses and weights after the refit."""
    theirs = trained(by_hand=False)
    assert not calls
    ours = trained(by_hand=True)
    # skorch holds back a fifth: 267 of a fold's 333 samples are 6 batches, 400 of all 500 are 8
    steps = EPOCHS * (4 * FOLDS * 6 + 8)
    assert calls["Chain"] == calls["Cost"] == steps
    assert differing(ours, theirs) == []
    assert ours["mean_test_score"].max() > 0.5  # guessing: 0.1


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    assert differing(trained(by_hand=True), trained(by_hand=False))
