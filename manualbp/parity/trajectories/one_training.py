"""One training of candidate, reference and twins, step by step, into a Trajectory.

    batch t --+--> candidate: C, dC/dw, w <- optimizer(w, dC/dw)     by itself
              +--> candidate: C, dC/dw                               at the reference's state
              +--> reference: C, dC/dw, w <- optimizer(w, dC/dw)
              +--> twin k:    the same, rounded a little differently

Random numbers come from the seed and the step alone, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from manualbp.parity.arms.batches import Batch, Batches, rows, step_seed
from manualbp.parity.arms.calls import Call, cast_loss
from manualbp.parity.arms.forward import LOSS, Tensors
from manualbp.parity.arms.rounding import Lowered, Nudge
from manualbp.parity.arms.trainee import Trainee
from manualbp.parity.diagnosis.across_steps import GradientHistory
from manualbp.parity.judge.comparison import raised
from manualbp.parity.judge.limits import RANDOM
from manualbp.parity.judge.yardstick import another
from manualbp.parity.training_record import First, Trajectory
from manualbp.parity.trajectories.envelope import Array, Envelope, PackedStep
from manualbp.parity.trajectories.free_running import Drift, gradient_histograms, shortened
from manualbp.parity.trajectories.plan import Plan
from manualbp.parity.trajectories.teacher_forced import TeacherForced, worst_share


class OneTraining:
    """The arms of one training.

    Args:
        plan: how to train.
        record: what is filled in; it names optimizer and seed.
        dtype: to train in; both modules are taken to it.
    """

    def __init__(self, plan: Plan, record: Trajectory, dtype: torch.dtype) -> None:
        self.record, self._plan = record, plan
        # None: modules, batches and losses as they are.
        self._dtype = None if dtype == plan.working else dtype
        ours, theirs = plan.arms(self._dtype, record.seed)
        self._loss = cast_loss(plan.loss, self._dtype)
        self._candidate_loss = cast_loss(plan.candidate_loss, self._dtype)
        own, make = plan.optimizers[record.optimizer]
        self._candidate = Trainee(ours, own, tuple(theirs.parameters))
        self._reference = Trainee(theirs, make)
        self._eps = torch.finfo(next(iter(self._reference.trained.values())).dtype).eps
        self._twins = [Trainee.twin(theirs, make, self._nudge(k, 0)) for k in range(plan.twins)]
        self._forced = (
            TeacherForced(self._candidate, self._reference, plan.exact)
            if plan.teacher_forced else None
        )  # fmt: skip
        self._envelope, self._history = Envelope(), GradientHistory()
        self._last: tuple[Tensors, Tensors] | None = None
        # The latest step at which no gradient was zero: there power is measured.
        self._exercised: dict[str, Any] = {}
        self.over = False

    def step(self, batch: Batch) -> None:
        """Take one batch; ``over`` says that nothing can follow."""
        number = self.record.steps + 1
        call, own_call = self._calls(number, batch)
        state = self._reference.numbers()
        if number == 1 and self._no_judge(call, state):
            return
        ours = self._tried(number, lambda: self._candidate_step(own_call))
        forced = None
        if (at_reference := self._forced) is not None and not self.over:
            forced = self._tried(number, lambda: at_reference.run(state, own_call))
        theirs = self._reference.gradients(call)
        if not self._finite(number, theirs):
            return
        self._history.start(rows(batch), calls=1 if forced is None else 2)
        if forced is not None:
            self._judge_forced(number, forced, theirs, state, call, own_call)
        theirs |= self._reference.update()
        packed = PackedStep(theirs)
        low, limit = self._envelope.update(packed, self._twins_apart(number, call, packed))
        if ours is not None:
            self._judge_free(number, ours, theirs, Drift(ours, theirs, packed, low, limit))
            self._last = ours, theirs
        self._history.end(theirs)
        self.record.steps = number

    def measure_power(self, batches: Batches) -> None:
        """What teacher forcing can see here; last, since a candidate may count its calls."""
        if self._forced is None or self.over or self.record.forced is not None:
            return
        number = self._exercised["number"]
        calls = self._calls(number, next(batches.skip(number - 1)))
        self.record.power = self._forced.power(self._exercised["state"], *calls)

    def finish(self) -> None:
        """Histograms of the last step's gradients."""
        if self._last is not None:
            self.record.histograms |= gradient_histograms(*self._last)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, for ``load``."""
        return {
            "candidate": self._candidate.state(), "reference": self._reference.state(),
            "twins": [twin.state() for twin in self._twins],
            "envelope": self._envelope.state(), "history": self._history.state(),
            "exercised": self._exercised,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        self._candidate.load(state["candidate"])
        self._reference.load(state["reference"])
        for twin, saved in zip(self._twins, state["twins"], strict=True):
            twin.load(saved)
        self._envelope.load(state["envelope"])
        self._history.load(state["history"])
        self._exercised = state["exercised"]

    def _nudge(self, k: int, number: int) -> Nudge:
        return Nudge(self._eps, step_seed(self.record.seed, number) * 1009 + k + 1)

    def _calls(self, number: int, batch: Batch) -> tuple[Call, Call]:
        """The reference's call and the candidate's."""
        (inputs, target), seed = batch, step_seed(self.record.seed, number)
        theirs, ours = (
            Call.of(inputs, loss, target, seed).to(self._dtype)
            for loss in (self._loss, self._candidate_loss)
        )
        return theirs, ours

    def _candidate_step(self, call: Call) -> Tensors:
        found = self._candidate.gradients(call)
        found |= self._candidate.update()
        return {name: None if t is None else t.clone() for name, t in found.items()}

    def _tried(self, number: int, run: Callable[[], Tensors]) -> Tensors | None:
        """What the candidate gives; where it raises, the training is over."""
        try:
            return run()
        except Exception as error:
            self.record.outside = self.record.outside or First(number, (LOSS,), raised(error))
            self.record.bit_identical, self.over = False, True
            return None

    def _no_judge(self, call: Call, state: dict[str, Any]) -> bool:
        """Whether the reference is random, or rounds to another dtype inside in float64."""
        with Lowered() as seen:  # type: ignore[no-untyped-call]
            once = self._reference.gradients(call)
        self._reference.load(state, optimizer=False)
        again = self._reference.gradients(call)
        self._reference.load(state, optimizer=False)
        if any(g is not None and another(g, again[n]) for n, g in once.items()):
            self.record.broken = RANDOM
        elif seen.dtype is not None and self._eps == torch.finfo(torch.float64).eps:
            name = str(seen.dtype).removeprefix("torch.")
            self.record.broken = (
                f"the reference computes in {name} inside, so its float64 training is none; "
                "what is said of the other dtypes stands"
            )
            self.record.lowered = True
        self.over = bool(self.record.broken)
        return self.over

    def _finite(self, number: int, theirs: Tensors) -> bool:
        """Whether the reference can judge; where not, the training is over."""
        for name, tensor in theirs.items():
            if tensor is not None and not tensor.isfinite().all():
                shown = f" is {float(tensor)}" if name == LOSS else " has NaN or infinite elements"
                self.record.broken = (
                    f"the reference's {name}{shown} at step {number}, so it cannot judge; "
                    "lower the learning rate, or look at that batch"
                )
                self.over = True
                return False
        return True

    def _twins_apart(self, number: int, call: Call, packed: PackedStep) -> Array:
        """d_k of every twin, shape (K, tensors)."""
        found = np.zeros((len(self._twins), len(packed.names)))
        for k, twin in enumerate(self._twins):
            tensors = twin.gradients(call, self._nudge(k, number))
            found[k] = packed.distance(packed.pack(tensors | twin.update()))
        return found

    def _judge_forced(
        self, number: int, ours: Tensors, theirs: Tensors, state: dict[str, Any],
        call: Call, candidate_call: Call,
    ) -> None:  # fmt: skip
        """The candidate's gradients at the reference's state."""
        assert self._forced is not None
        record, first = self.record, self.record.forced is None
        reports = self._forced.judge(ours, theirs, state, call, precise=first)
        for report in reports:
            record.draw(f"forced/{report.name}", number, worst_share(report))
        wrong = {report.name: report.reason for report in reports if not report.agrees}
        if first and wrong:
            reason = shortened([f"{name}: {why}" for name, why in wrong.items()])
            record.forced = First(number, tuple(wrong), reason)
            found = self._history.explain(number, wrong, ours, theirs)
            # First the kinds that only a training shows, else what the gradients show.
            record.findings += found or self._forced.explain(state, call, candidate_call)
        exercised = all(t is None or bool(t.any()) for n, t in theirs.items() if n != LOSS)
        if exercised or not self._exercised:
            self._exercised = {"number": number, "state": state}

    def _judge_free(self, number: int, ours: Tensors, theirs: Tensors, drift: Drift) -> None:
        """The candidate's own training."""
        record = self.record
        drift.draw(record, number, envelope=bool(self._twins))
        record.bit_identical &= drift.bit_identical
        if record.outside is not None:
            return
        record.outside = drift.outside(number, self._plan.exact)
        if record.outside is not None and record.forced is None:
            record.findings += self._history.explain(number, record.outside.tensors, ours, theirs)
