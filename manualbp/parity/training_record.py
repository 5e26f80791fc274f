"""What a comparison of trainings found, as data.

Besides the names of record.py, tensors of a training are ``0.weight``, a buffer's name, and
``0.weight.exp_avg`` for what an optimizer stores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from manualbp.parity.power_record import PowerReport
from manualbp.parity.record import AGREE, DIFFER, NO_POWER, NOT_JUDGED, Finding, GradientReport

# Points that a curve stores at most, however many steps a training has.
CURVE_POINTS = 512


@dataclass
class Curve:
    """Values by step, at most ``CURVE_POINTS`` of them: every 2nd, 4th, 8th ... as it grows.

    ``last`` and ``peak`` are (step, value) of the newest and of the largest value, also where
    their points are not stored.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    last: tuple[int, float] | None = None
    peak: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """Add the value of a step; steps count from 1."""
        self.last = step, value
        if self.peak is None or value > self.peak[1] or math.isnan(value):
            self.peak = step, value
        if (step - 1) % self.stride:
            return
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > CURVE_POINTS:
            self.stride *= 2
            fewer = [i for i, s in enumerate(self.steps) if (s - 1) % self.stride == 0]
            self.steps = [self.steps[i] for i in fewer]
            self.values = [self.values[i] for i in fewer]


@dataclass(frozen=True)
class First:
    """Where something was first seen: the step, and every tensor it was seen in then."""

    step: int
    tensors: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Histogram:
    """Counts of values between ``edges`` (one more than counts), as numpy.histogram gives them."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass
class Trajectory:
    """One training: an optimizer, a dtype, a seed.

    ``curves`` by tag, T being a tensor::

        loss/candidate, loss/reference
        drift/T          rms distance of the candidate from the reference, each training by itself
        low/T, high/T    the envelope: the nearest twin, and what is allowed
        share/T          drift over allowed
        forced/T         error over allowed of the candidate's gradient at the reference's state

    ``histograms`` by tag, of the last step: ``gradients/candidate/T``, ``gradients/reference/T``,
    ``differences/T``. ``outside`` is the first step outside the envelope, ``forced`` the first
    wrong gradient at the reference's state. ``broken`` says why it could not be judged; with
    ``lowered`` because the reference rounds to another dtype inside, so that nothing is lost by it.
    """

    optimizer: str
    dtype: str
    seed: int
    planned: int
    steps: int = 0
    curves: dict[str, Curve] = field(default_factory=dict)
    outside: First | None = None
    forced: First | None = None
    bit_identical: bool = True
    broken: str = ""
    lowered: bool = False
    power: PowerReport | None = None
    findings: tuple[Finding, ...] = ()
    histograms: dict[str, Histogram] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``sgd-float32-seed0``."""
        return f"{self.optimizer}-{self.dtype}-seed{self.seed}"

    @property
    def verdict(self) -> str:
        """As of a GradientReport."""
        if self.outside or self.forced:
            return DIFFER
        if self.broken:
            return NOT_JUDGED
        return NO_POWER if not self.steps or (self.power and self.power.missing) else AGREE

    def draw(self, tag: str, step: int, value: float) -> None:
        """Add one point to the curve of a tag."""
        self.curves.setdefault(tag, Curve()).add(step, value)


@dataclass
class TrainingReport:
    """What ``compare_training`` found: a Trajectory for each optimizer, dtype and seed.

    ``reports.terminal.print_report`` prints it.

    Attributes:
        candidate: its name.
        reference: its name.
        runs: the trainings: each with its curves, its ``verdict``, and where it first differed.
        setup: what was run, by name.
        interrupted: Ctrl-C ended it early.

    Example:
        >>> import copy
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import compare_training
        >>> net, data = nn.Linear(4, 2), [(torch.randn(8, 4), torch.randn(8, 2))]
        >>> report = compare_training(net, copy.deepcopy(net), data, nn.MSELoss(), ["sgd"], 3)
        >>> [(run.name, run.steps, run.outside) for run in report.runs]
        [('sgd-float32-seed0', 3, None), ('sgd-float64-seed0', 3, None)]
    """

    candidate: str
    reference: str
    runs: list[Trajectory] = field(default_factory=list)
    setup: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def verdict(self) -> str:
        """The worst of the trainings; a float64 that is none does not count beside others."""
        counted = [run for run in self.runs if not run.lowered] or self.runs
        verdicts = {run.verdict for run in counted}
        for worst in (DIFFER, NOT_JUDGED):
            if worst in verdicts:
                return worst
        return AGREE if verdicts == {AGREE} and not self.interrupted else NO_POWER

    @property
    def agrees(self) -> bool:
        """Every training agrees, each to its end."""
        return self.verdict == AGREE

    @property
    def bit_identical(self) -> bool:
        """No bit differed at any step of any training, and there was a step."""
        return bool(self.runs) and all(run.steps and run.bit_identical for run in self.runs)


Report = GradientReport | TrainingReport


def check_report(report: Report) -> None:
    """Refuse what is no report.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(report, GradientReport | TrainingReport):
        raise TypeError(
            f"expected a GradientReport or a TrainingReport, got {type(report).__name__}; "
            "pass what compare_gradients or compare_training returned"
        )
