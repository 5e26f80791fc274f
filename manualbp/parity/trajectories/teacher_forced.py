"""The candidate's gradient at the reference's state, step by step: teacher forcing.

Two trainings, each by itself, drift apart; then nothing can be said of the later steps. Here the
candidate gets the reference's parameters and buffers at every step, the same batch and the same
random numbers. Its gradient is then judged by the rule of limits.py. So the first wrong step and
its tensors are exact, however far the trainings have drifted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import LOSS, Tensors
from manualbp.parity.arms.parameters import borrowed
from manualbp.parity.arms.runs import backward
from manualbp.parity.arms.trainee import Trainee
from manualbp.parity.bits import both_identical
from manualbp.parity.diagnosis.diagnose import diagnose
from manualbp.parity.diagnosis.gather import gather
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.power import measure_power
from manualbp.parity.judge.yardstick import TWINS, Twins, Yardstick, judge_tensors
from manualbp.parity.power_record import PowerReport
from manualbp.parity.record import Finding, TensorReport, without_numbers

# How many twins are drawn, in turn, until all tensors agree: limits only grow with twins.
PAIRS = (0, 2, TWINS)


class TeacherForced:
    """Runs and judges the candidate at the reference's state; both are restored afterwards."""

    def __init__(self, candidate: Trainee, reference: Trainee, exact: bool) -> None:
        self._candidate, self._reference, self._exact = candidate, reference, exact
        self._twins = Twins.of(reference.subject)

    def run(self, state: dict[str, Any], call: Call) -> Tensors:
        """The candidate's loss and gradients with the reference's parameters and buffers."""
        own = self._candidate.numbers()
        self._candidate.load(state, optimizer=False)
        try:
            return self._candidate.gradients(call)
        finally:
            self._candidate.load(own, optimizer=False)

    def judge(
        self, ours: Tensors, theirs: Tensors, state: dict[str, Any], call: Call, precise: bool
    ) -> tuple[TensorReport, ...]:
        """A report for each tensor; ``precise`` draws all twins where some of them say "differs".

        Args:
            ours: of ``run``.
            theirs: the reference's loss and gradients of this step.
            state: the reference's, before the step.
            call: what the reference was called with.
            precise: whether a "differs" has to be certain.
        """
        if ours.keys() == theirs.keys() and all(both_identical(ours[n], theirs[n]) for n in ours):
            return tuple(without_numbers(n, "", t) for n, t in theirs.items() if t is not None)
        after = self._reference.numbers()  # buffers have moved; parameters not yet
        self._reference.load(state, optimizer=False)
        try:
            # A loss is taken back with dC/dC = 1, as in any training.
            directions = Directions(call.seed, {LOSS: torch.ones(())})
            # one_training.py has seen at the first step that two runs are alike.
            yardstick = Yardstick(
                backward, self._reference.subject, call, directions, self._twins, steady=True
            )
            pairs = PAIRS if precise else PAIRS[:2]
            return judge_tensors(ours, theirs, yardstick, self._exact, pairs)
        finally:
            self._reference.load(after, optimizer=False)

    def power(self, state: dict[str, Any], call: Call, candidate_call: Call) -> PowerReport | None:
        """What the rule sees at this state; None where the candidate does not run."""
        with self._compared(state, call, candidate_call) as comparison:
            return measure_power(comparison) if comparison.ours.tensors else None

    def explain(
        self, state: dict[str, Any], call: Call, candidate_call: Call
    ) -> tuple[Finding, ...]:
        """What kind of wrong the gradients at this state are; none where they are right now."""
        with self._compared(state, call, candidate_call) as comparison:
            return () if comparison.agrees else diagnose(gather(comparison))

    @contextmanager
    def _compared(
        self, state: dict[str, Any], call: Call, candidate_call: Call
    ) -> Iterator[Comparison]:
        """Both arms at this state, compared as compare_gradients does; restored afterwards."""
        with borrowed(self._candidate.module, self._reference.module):
            self._candidate.load(state, optimizer=False)
            self._reference.load(state, optimizer=False)
            yield Comparison(
                "backward", self._candidate.subject, self._reference.subject, call,
                candidate_loss=candidate_call.loss, cotangent=torch.ones(()),
                exact=self._exact, twins=self._twins,
            )  # fmt: skip


def worst_share(report: TensorReport) -> float:
    """Error over what is allowed, of the tensor or of its worst element."""
    if report.agrees:
        return report.share
    if report.worst is None or not report.worst.limit > 0:
        return max(report.share, 1.0) if report.allowed > 0 else float("inf")
    return max(report.share, abs(report.worst.got - report.worst.expected) / report.worst.limit)
