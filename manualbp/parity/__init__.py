"""Do two implementations of the same module agree? For any pair of modules.

``compare_gradients`` runs both once, forward and backward, and judges every tensor by the rule of
judge/limits.py. ``compare_training`` trains both, each by itself and at the same state. Nothing
here knows the hand-written MLP. The rooms; each may import the ones above it:

    bits.py files.py versions.py        tensors by their bits, files written whole, versions
    record.py power_record.py
    training_record.py step_record.py   what was found, as data
    repro.py                            a comparison in one file, to be run again
    arms/                               one side: what is called, with what, and what one run gives
    judge/                              the rule, the yardstick, situations, planted faults (power)
    diagnosis/                          what kind of wrong it is, and where to look for it
    trajectories/                       trainings step by step: free-running, teacher-forced, a plan
    reports/                            words, terminal, Markdown, JSON, JUnit, TensorBoard
    gradients.py training.py            compare_gradients, compare_training
    cli/                                ``python -m manualbp.parity``, and options for others

reports/ reads the data alone, nothing of arms/ to trajectories/. tests/parity/test_rooms.py holds
the order.
"""

from __future__ import annotations

from manualbp.parity.arms.parameters import load_parameters
from manualbp.parity.bits import bit_identical, ulp_distance
from manualbp.parity.gradients import assert_gradients_match, compare_gradients
from manualbp.parity.judge.tolerance import compare_tensors
from manualbp.parity.record import GradientReport, TensorReport
from manualbp.parity.step_record import SideBySide, Step
from manualbp.parity.training import compare_training
from manualbp.parity.training_record import TrainingReport
from manualbp.parity.trajectories.side_by_side import Arm, evaluate, train_side_by_side

__all__ = [
    "Arm", "GradientReport", "SideBySide", "Step", "TensorReport", "TrainingReport",
    "assert_gradients_match", "bit_identical", "compare_gradients", "compare_tensors",
    "compare_training", "evaluate", "load_parameters", "train_side_by_side", "ulp_distance",
]  # fmt: skip
