"""Progress bars."""

from __future__ import annotations

import pytest
import torch

from manualbp.parity import compare_gradients
from manualbp.parity.cli.progress import TrainingProgress, checking, track


def test_a_bar_of_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """It moves with every check of a comparison; nothing is drawn that is no terminal."""
    seen = []
    with checking(6) as done:
        x = torch.randn(3, 2)
        compare_gradients(torch.tanh, torch.tanh, x, also="second_order",
                          on_check=lambda check: (seen.append(check), done(check)))  # fmt: skip
    assert [check.kind for check in seen] == ["backward", "second_order"] * 3
    assert capsys.readouterr().out == ""


def test_progress_names_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no terminal nothing is drawn; what would be is right."""
    with TrainingProgress(3) as bar:
        bar.step(2.5)
        bar.step(0.125, "adam-float64-seed0")
    (task,) = bar._bars.tasks
    assert (task.completed, task.total, task.description) == (2, 3, "adam-float64-seed0")
    assert task.fields["loss"] == "0.125"
    assert list(track([1, 2], "counting")) == [1, 2]
    assert capsys.readouterr().out == ""
