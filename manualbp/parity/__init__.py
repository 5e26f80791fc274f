"""Do two implementations of the same module agree? For any pair of modules.

``compare_gradients`` runs both once, forward and backward, and judges every tensor by the rule
in ``tolerance``. ``compare_training`` trains both, each by itself and at the same state.
``report`` prints what was found, ``tensorboard`` logs it. Nothing here knows the hand-written MLP.
"""

from __future__ import annotations

from manualbp.parity.arms.subject import load_parameters
from manualbp.parity.gradients import assert_gradients_match, compare_gradients
from manualbp.parity.judge.tolerance import bit_identical, compare_tensors, ulp_distance
from manualbp.parity.record import GradientReport, TensorReport, TrainingReport
from manualbp.parity.training import compare_training
from manualbp.parity.trajectories.side_by_side import (
    Arm,
    SideBySide,
    Step,
    evaluate,
    train_side_by_side,
)

__all__ = [
    "Arm",
    "GradientReport",
    "SideBySide",
    "Step",
    "TensorReport",
    "TrainingReport",
    "assert_gradients_match",
    "bit_identical",
    "compare_gradients",
    "compare_tensors",
    "compare_training",
    "evaluate",
    "load_parameters",
    "train_side_by_side",
    "ulp_distance",
]
