"""Progress bars."""

from __future__ import annotations

import pytest

from manualbp.parity.cli.progress import TrainingProgress, track


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
