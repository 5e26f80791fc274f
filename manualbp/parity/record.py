"""What a comparison found, as data.

gradients.py and training.py fill it in; report.py (terminal, JSON, JUnit XML, Markdown) and
tensorboard.py show it. Names of tensors are the reference's: ``output``, ``loss``, ``input.grad``,
``0.weight.grad``; in a training also ``0.weight``, a buffer's name, and ``0.weight.exp_avg`` for
what an optimizer keeps of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

AGREE, DIFFER, NO_POWER = "agree", "DIFFER", "NO POWER"
# Points of a curve that are kept, however many steps a training has.
CURVE_POINTS = 512


@dataclass(frozen=True)
class Worst:
    """The element furthest beyond its limit: ``|got - expected| > limit``."""

    index: tuple[int, ...]
    got: float
    expected: float
    limit: float


@dataclass(frozen=True)
class TensorReport:
    """What was found for one tensor. Errors are root mean squares of the distance to float64.

    Numbers are NaN and ``ulp`` is None where they have no meaning (missing tensor, other shape).
    ``oracle_difference`` is the distance of an independent oracle from the float64 run, relative
    to the size of the sums; None where there was none. ``differing`` elements lie beyond their
    own limit.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    max_abs: float
    max_rel: float
    ulp: int | None
    candidate_error: float
    reference_error: float
    allowed: float
    bit_identical: bool
    agrees: bool
    reason: str
    oracle_difference: float | None = None
    differing: int = 0
    worst: Worst | None = None

    @property
    def share(self) -> float:
        """The candidate's error over what is allowed: above 1 the tensor as a whole differs."""
        return self.candidate_error / self.allowed if self.allowed > 0 else 0.0


@dataclass(frozen=True)
class Check:
    """One run of both arms: ``backward``, ``second_order``, ``forward_mode`` or ``vmap``."""

    kind: str
    seed: int
    tensors: tuple[TensorReport, ...]


@dataclass(frozen=True)
class Planted:
    """A standard fault put into one gradient of the candidate, and whether the rule saw it."""

    fault: str
    tensor: str
    caught: bool


@dataclass(frozen=True)
class PowerReport:
    """What the rule can see on this very pair.

    ``smallest`` is the smallest relative error g * (1 + d) that is seen, per gradient; infinity
    where none is. ``missing`` says why a PASS is refused; empty where power suffices.
    """

    planted: tuple[Planted, ...]
    smallest: dict[str, float]
    missing: tuple[str, ...]

    @property
    def caught(self) -> tuple[str, ...]:
        """The faults that were seen wherever they were planted."""
        missed = {p.fault for p in self.planted if not p.caught}
        return tuple(fault for fault in self.faults if fault not in missed)

    @property
    def faults(self) -> tuple[str, ...]:
        """Every fault that could be planted, each once."""
        return tuple(dict.fromkeys(p.fault for p in self.planted))


@dataclass(frozen=True)
class Finding:
    """What kind of wrong one tensor is, in words.

    ``kind`` is one word for machines (``factor``, ``transposed``, ``sign``, ...). ``here`` is True
    where what came in was right and this tensor is wrong, False where what came in was wrong
    already, None where that is not known. Findings stand in backward order, the first offender
    first.
    """

    tensor: str
    kind: str
    words: str
    here: bool | None
    next_step: str


@dataclass(frozen=True)
class GradientReport:
    """A comparison of gradients. ``setup`` says what was run, ``repro`` where to run it again."""

    candidate: str
    reference: str
    checks: tuple[Check, ...]
    power: PowerReport | None = None
    findings: tuple[Finding, ...] = ()
    setup: dict[str, str] = field(default_factory=dict)
    repro: str | None = None

    @property
    def tensors(self) -> tuple[TensorReport, ...]:
        """The worst of each tensor over the seeds; ``second_order 0.weight.grad`` beyond first."""
        found: dict[tuple[str, str], TensorReport] = {}
        for check in self.checks:
            for tensor in check.tensors:
                key = check.kind, tensor.name
                found[key] = max(found.get(key, tensor), tensor, key=_badness)
        return tuple(found.values())

    @property
    def differing(self) -> tuple[TensorReport, ...]:
        """The tensors that do not agree."""
        return tuple(tensor for tensor in self.tensors if not tensor.agrees)

    @property
    def verdict(self) -> str:
        """``agree``, ``DIFFER``, or ``NO POWER``: nothing differs, but a fault would not show."""
        if self.differing:
            return DIFFER
        weak = not self.tensors or (self.power and self.power.missing)
        return NO_POWER if weak else AGREE

    @property
    def agrees(self) -> bool:
        """Every tensor agrees, and where power was asked for it suffices."""
        return self.verdict == AGREE

    @property
    def bit_identical(self) -> bool:
        """Every tensor has the reference's bits."""
        return all(tensor.bit_identical for check in self.checks for tensor in check.tensors)

    @property
    def worst(self) -> TensorReport:
        """The tensor to look at first: one that differs, else the one nearest to its limit."""
        return max(self.tensors, key=_badness)


@dataclass
class Curve:
    """Values by step, at most ``CURVE_POINTS`` of them: every 2nd, 4th, 8th ... as it grows.

    ``last`` and ``peak`` are (step, value) of the newest and of the largest one, kept or not.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    last: tuple[int, float] | None = None
    peak: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """The value of a step, steps counted from 1."""
        self.last = step, value
        if self.peak is None or value > self.peak[1] or math.isnan(value):
            self.peak = step, value
        if (step - 1) % self.stride:
            return
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > CURVE_POINTS:
            self.stride *= 2
            kept = [i for i, s in enumerate(self.steps) if (s - 1) % self.stride == 0]
            self.steps = [self.steps[i] for i in kept]
            self.values = [self.values[i] for i in kept]


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

    ``curves`` by tag: ``loss/candidate``, ``loss/reference``; per tensor ``drift/T`` (rms distance
    of the candidate from the reference, each training by itself), ``low/T`` and ``high/T`` (the
    envelope: the nearest twin, and what is allowed), ``share/T`` (drift over allowed),
    ``forced/T`` (error over allowed of the candidate's gradient at the reference's state).
    ``outside`` is the first step outside the envelope, ``forced`` the first wrong gradient at the
    reference's state. ``broken`` says why it could not be judged (a loss that is NaN).
    ``histograms`` by tag, taken at the last step: ``gradients/candidate/T``,
    ``gradients/reference/T``, ``differences/T``.
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
        if self.outside or self.forced or self.broken:
            return DIFFER
        return NO_POWER if not self.steps or (self.power and self.power.missing) else AGREE


@dataclass
class TrainingReport:
    """A comparison of trainings: one Trajectory for each optimizer, dtype and seed."""

    candidate: str
    reference: str
    runs: list[Trajectory] = field(default_factory=list)
    setup: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def verdict(self) -> str:
        """``DIFFER`` if one training does, ``NO POWER`` if one has none, else ``agree``."""
        verdicts = {run.verdict for run in self.runs}
        if DIFFER in verdicts:
            return DIFFER
        return AGREE if verdicts == {AGREE} and not self.interrupted else NO_POWER

    @property
    def agrees(self) -> bool:
        """Every training agrees, each to its end."""
        return self.verdict == AGREE

    @property
    def bit_identical(self) -> bool:
        """No bit differed at any step of any training, and there was a step."""
        return bool(self.runs) and all(run.steps and run.bit_identical for run in self.runs)


def over(error: float, allowed: float) -> float:
    """Error over allowed; infinity where nothing is allowed and there is an error."""
    if allowed > 0:
        return error / allowed
    return math.inf if error > 0 else error  # 0 of 0 is nothing; NaN stays NaN


def _badness(tensor: TensorReport) -> tuple[bool, bool, float]:
    return (not tensor.agrees, not tensor.bit_identical, tensor.share)
