"""One training of candidate, reference and twins, step by step, into a Trajectory.

    batch t --+--> candidate: C, dC/dw, w <- optimizer(w, dC/dw)     by itself
              +--> candidate: C, dC/dw                               at the reference's state
              +--> reference: C, dC/dw, w <- optimizer(w, dC/dw)
              +--> twin k:    the same, rounded a little differently

Random numbers come from the seed and the step alone, the same for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manualbp.parity.arms.batches import Batch, Batches, rows, step_seed
from manualbp.parity.arms.calls import Call, Loss, cast_loss
from manualbp.parity.arms.runs import Tensors
from manualbp.parity.arms.subject import Subject
from manualbp.parity.arms.trainee import LOSS, MakeOptimizer, Nudge, Trainee
from manualbp.parity.diagnosis.across_steps import Memory
from manualbp.parity.record import Curve, First, Histogram, TensorReport, Trajectory, over
from manualbp.parity.trajectories.envelope import Array, Envelope, Layout, worst_first
from manualbp.parity.trajectories.teacher_forced import Forced, share

BINS = 30


@dataclass(frozen=True)
class Options:
    """How a training is run. ``dtype`` None: modules and batches as they are."""

    loss: Loss
    candidate_loss: Loss
    candidate_optimizer: MakeOptimizer
    reference_optimizer: MakeOptimizer
    dtype: torch.dtype | None
    twins: int
    teacher_forced: bool
    exact: bool


class Race:
    """The arms of one training.

    Args:
        record: what is filled in.
        ours: the candidate, at the start, in the dtype of the run.
        theirs: the reference, likewise.
        options: how to run.
    """

    def __init__(self, record: Trajectory, ours: Subject, theirs: Subject, o: Options) -> None:
        self.record, self.options = record, o
        self._loss = cast_loss(o.loss, o.dtype)
        self._candidate_loss = cast_loss(o.candidate_loss, o.dtype)
        names = tuple(theirs.parameters)
        self.candidate = Trainee(ours, o.candidate_optimizer, names)
        self.reference = Trainee(theirs, o.reference_optimizer)
        self.eps = torch.finfo(next(iter(self.reference.trained.values())).dtype).eps
        self.twins = [
            Trainee.twin(theirs, o.reference_optimizer, self._nudge(k, 0)) for k in range(o.twins)
        ]
        self.forced = Forced(self.candidate, self.reference, o.exact) if o.teacher_forced else None
        self.envelope, self.memory = Envelope(), Memory()
        self._last: tuple[Tensors, Tensors] | None = None
        # The latest step at which no gradient was zero: there power is measured.
        self._exercised: dict[str, Any] = {}
        self.over = False

    def step(self, batch: Batch) -> None:
        """Take one batch; ``over`` says that nothing can follow."""
        number = self.record.steps + 1
        call, own_call = self._calls(number, batch)
        state = self.reference.state()
        ours = self._candidate_step(number, own_call)
        forced = self._forced_run(number, state, own_call)
        theirs = self.reference.gradients(call)
        if not self._finite(number, theirs):
            return
        self.memory.start(rows(batch), calls=1 if forced is None else 2, theirs=theirs)
        if forced is not None:
            self._judge_forced(number, forced, theirs, state, call, own_call)
        theirs |= self.reference.update()
        layout = Layout(theirs)
        low, limit = self.envelope.update(layout, self._twins_apart(number, call, layout))
        if ours is not None:
            self._judge_free(number, ours, theirs, layout, low, limit)
            self._last = ours, theirs
        self.memory.end(theirs)
        self.record.steps = number

    def measure_power(self, batches: Batches) -> None:
        """What teacher forcing can see here; last, since a candidate may count its calls."""
        if self.forced is None or self.over or self.record.forced is not None:
            return
        number = self._exercised["number"]
        calls = self._calls(number, next(batches.skip(number - 1)))
        self.record.power = self.forced.power(self._exercised["state"], *calls)

    def finish(self) -> None:
        """Histograms of the last step's gradients."""
        if self._last is None:
            return
        ours, theirs = self._last
        for name in (n for n in theirs if n.endswith(".grad")):
            c, r = ours.get(name), theirs[name]
            if c is None or r is None or c.shape != r.shape:
                continue
            name, found = name.removesuffix(".grad"), self.record.histograms
            mine, other = (t.double().cpu().numpy().ravel() for t in (c, r))
            found[f"gradients/candidate/{name}"] = histogram(mine)
            found[f"gradients/reference/{name}"] = histogram(other)
            found[f"differences/{name}"] = histogram(mine - other)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "candidate": self.candidate.state(), "reference": self.reference.state(),
            "twins": [twin.state() for twin in self.twins],
            "envelope": self.envelope.state(), "memory": self.memory.state(),
            "exercised": self._exercised,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.candidate.load(state["candidate"])
        self.reference.load(state["reference"])
        for twin, kept in zip(self.twins, state["twins"], strict=True):
            twin.load(kept)
        self.envelope.load(state["envelope"])
        self.memory.load(state["memory"])
        self._exercised = state["exercised"]

    def _nudge(self, k: int, number: int) -> Nudge:
        return Nudge(self.eps, step_seed(self.record.seed, number) * 1009 + k + 1)

    def _calls(self, number: int, batch: Batch) -> tuple[Call, Call]:
        """The reference's call and the candidate's."""
        (inputs, target), seed = batch, step_seed(self.record.seed, number)
        theirs, ours = (
            Call.of(inputs, loss, target, seed).to(self.options.dtype)
            for loss in (self._loss, self._candidate_loss)
        )
        return theirs, ours

    def _candidate_step(self, number: int, call: Call) -> Tensors | None:
        try:
            found = self.candidate.gradients(call)
            found |= self.candidate.update()
        except Exception as error:
            self._fail(number, error)
            return None
        return {name: None if t is None else t.clone() for name, t in found.items()}

    def _forced_run(self, number: int, state: dict[str, Any], call: Call) -> Tensors | None:
        if self.forced is None or self.over:
            return None
        try:
            return self.forced.run(state, call)
        except Exception as error:
            self._fail(number, error)
            return None

    def _fail(self, number: int, error: Exception) -> None:
        reason = f"the candidate raised {type(error).__name__}: {' '.join(str(error).split())}"
        self.record.outside = self.record.outside or First(number, (LOSS,), reason)
        self.record.bit_identical, self.over = False, True

    def _finite(self, number: int, theirs: Tensors) -> bool:
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

    def _twins_apart(self, number: int, call: Call, layout: Layout) -> Array:
        """d_k of every twin, shape (K, tensors)."""
        found = np.zeros((len(self.twins), len(layout.names)))
        for k, twin in enumerate(self.twins):
            tensors = twin.gradients(call, self._nudge(k, number))
            found[k] = layout.distance(layout.pack(tensors | twin.update()))
        return found

    def _judge_forced(
        self, number: int, ours: Tensors, theirs: Tensors, state: dict[str, Any],
        call: Call, candidate_call: Call,
    ) -> None:  # fmt: skip
        assert self.forced is not None
        record, first = self.record, self.record.forced is None
        reports = self.forced.judge(ours, theirs, state, call, precise=first)
        for report in reports:
            self._add(f"forced/{report.name}", number, share(report))
        wrong = [report for report in reports if not report.agrees]
        if first and wrong:
            record.forced = First(number, tuple(r.name for r in wrong), _words(wrong))
            found = self.memory.explain(number, [r.name for r in wrong], ours, theirs)
            # What a training alone shows comes first; else what the gradients say by themselves.
            record.findings += found or self.forced.explain(state, call, candidate_call)
        exercised = all(t is None or bool(t.any()) for n, t in theirs.items() if n != LOSS)
        if exercised or not self._exercised:
            self._exercised = {"number": number, "state": state}

    def _judge_free(
        self, number: int, ours: Tensors, theirs: Tensors, layout: Layout, low: Array, limit: Array
    ) -> None:
        values = layout.pack(ours)
        reasons = _not_comparable(ours, theirs, layout, values)
        same, drift = layout.same_bits(values), layout.distance(values)
        there = np.array([ours.get(name) is not None for name in layout.names])
        self._draw(number, ours, theirs, layout, drift, low, limit)
        self.record.bit_identical &= not reasons and bool(same[there].all())
        if self.record.outside is not None:
            return
        if self.options.exact:
            reasons |= {n: "other bits" for n, s, t in zip(layout.names, same, there, strict=True)
                        if t and not s and n not in reasons}  # fmt: skip
        with np.errstate(invalid="ignore"):
            shares = np.where(there & (drift > limit), drift / limit, 0.0)
        names = [n for n in worst_first(layout.names, shares) if n not in reasons]
        if not reasons and not names:
            return
        words = [f"{name}: {reason}" for name, reason in reasons.items()]
        for i in (layout.names.index(name) for name in names):
            words.append(
                f"{layout.names[i]}: rms distance {drift[i]:.2e}, allowed {limit[i]:.2e}, "
                f"the nearest twin {low[i]:.2e}"
            )
        found = (*reasons, *names)
        self.record.outside = First(number, found, _shortened(words))
        if self.record.forced is None:
            self.record.findings += self.memory.explain(number, found, ours, theirs)

    def _draw(
        self, number: int, ours: Tensors, theirs: Tensors, layout: Layout,
        drift: Array, low: Array, limit: Array,
    ) -> None:  # fmt: skip
        for arm, tensors in (("candidate", ours), ("reference", theirs)):
            loss = tensors.get(LOSS)
            self._add(f"loss/{arm}", number, math.nan if loss is None else float(loss))
        for i, name in enumerate(layout.names):
            if ours.get(name) is not None:
                self._add(f"drift/{name}", number, float(drift[i]))
            if self.twins and ours.get(name) is not None:
                self._add(f"share/{name}", number, over(float(drift[i]), float(limit[i])))
            if self.twins:
                self._add(f"low/{name}", number, float(low[i]))
                self._add(f"high/{name}", number, float(limit[i]))

    def _add(self, tag: str, number: int, value: float) -> None:
        self.record.curves.setdefault(tag, Curve()).add(number, value)


def histogram(values: NDArray[np.float64]) -> Histogram:
    """The finite values in ``BINS`` bins."""
    finite = values[np.isfinite(values)]
    top = np.abs(finite).max(initial=0.0)
    margin, limits = BINS * np.spacing(top), None
    if top and np.ptp(finite) < margin:  # numbers so near each other have no bins between them
        limits = float(finite.min() - margin), float(finite.max() + margin)
    counts, edges = np.histogram(finite, bins=BINS, range=limits)
    return Histogram(tuple(int(c) for c in counts), tuple(float(e) for e in edges))


def _not_comparable(
    ours: Tensors, theirs: Tensors, layout: Layout, values: Array
) -> dict[str, str]:
    """What differs before any number does, by name. Buffers and states may be one arm's own."""
    found: dict[str, str] = {}
    for name in [*theirs, *(n for n in ours if n not in theirs)]:
        c, r = ours.get(name), theirs.get(name)
        if c is None and r is None:
            continue
        if c is None or r is None:
            if name.endswith(".grad"):
                arm, other = ("candidate", "reference") if c is None else ("reference", "candidate")
                found[name] = f"missing in the {arm}, there in the {other}"
        elif c.shape != r.shape:
            found[name] = f"shape {tuple(c.shape)}, expected {tuple(r.shape)}"
        elif c.dtype != r.dtype:
            found[name] = f"dtype {c.dtype}, expected {r.dtype}"
    counts = layout.not_finite(values) - layout.not_finite(layout.values)
    for name, count in zip(layout.names, counts, strict=True):
        if count and ours.get(name) is not None and name not in found:
            found[name] = f"NaN or infinity: {count} more in the candidate than in the reference"
    return found


def _words(wrong: list[TensorReport]) -> str:
    return _shortened([f"{report.name}: {report.reason}" for report in wrong])


def _shortened(words: list[str], most: int = 2) -> str:
    rest = [f"and {len(words) - most} more"] if len(words) > most else []
    return "; ".join(words[:most] + rest)
