"""What a comparison of gradients found, as data.

gradients.py fills it in, reports/ shows it; training_record.py is the same of trainings. Names of
tensors are the reference's: ``output``, ``loss``, ``input.grad``, ``0.weight.grad``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from manualbp.parity.power_record import PowerReport

AGREE, DIFFER, NO_POWER, NOT_JUDGED = "agree", "DIFFER", "NO POWER", "NOT JUDGED"


@dataclass(frozen=True)
class WorstElement:
    """The element furthest beyond its limit: ``|got - expected| > limit``."""

    index: tuple[int, ...]
    got: float
    expected: float
    limit: float


@dataclass(frozen=True)
class TensorReport:
    """What was found for one tensor. Errors are root mean squares of the distance to float64.

    Numbers are NaN and ``ulp`` is None where they have no meaning (missing tensor, other shape).

    Attributes:
        name: the reference's: ``output``, ``loss``, ``input.grad``, ``0.weight.grad``.
        shape: the reference's.
        dtype: the reference's; None where there is no tensor.
        max_abs: the largest ``|candidate - reference|``.
        max_rel: the largest such difference, relative to the larger of the two elements.
        ulp: the largest distance in representable numbers.
        candidate_error: the candidate's distance to float64.
        reference_error: the reference's.
        allowed: what the candidate's may be.
        bit_identical: no bit differs.
        agrees: it is within its limits.
        reason: why it does not agree, in words; "" where nothing is to be said.
        oracle_difference: the distance of an independent oracle from the float64 run, relative to
            the size of the sums; None where no oracle was given.
        differing: how many elements lie beyond their own limit.
        worst: the element furthest beyond it; None where there is none.
        unjudged: it does not differ, but cannot be judged either.

    Example:
        >>> import torch
        >>> from manualbp.parity import compare_tensors
        >>> half = torch.full((2, 3), 0.5)
        >>> report = compare_tensors("h", half[0], half, half.double())
        >>> report.verdict, report.reason
        ('DIFFER', 'shape (3,), expected (2, 3)')
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
    worst: WorstElement | None = None
    unjudged: bool = False

    @property
    def verdict(self) -> str:
        """``agree``, ``DIFFER`` or ``NOT JUDGED``."""
        return AGREE if self.agrees else NOT_JUDGED if self.unjudged else DIFFER

    @property
    def share(self) -> float:
        """The candidate's error over what is allowed; above 1 the tensor as a whole differs."""
        return self.candidate_error / self.allowed if self.allowed > 0 else 0.0


def without_numbers(name: str, reason: str, present: Tensor | None = None) -> TensorReport:
    """A verdict that needs no number; it agrees where there is no reason against it.

    Shape and dtype are those of ``present``, a tensor that is there.
    """
    number = math.nan if reason else 0.0
    shape, dtype = ((), None) if present is None else (tuple(present.shape), present.dtype)
    return TensorReport(
        name, shape, dtype, number, number, None if reason else 0, number, number, number,
        not reason, not reason, reason,
    )  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One run of both arms; ``kind`` is one of ``RUN_KINDS`` of arms/runs.py."""

    kind: str
    seed: int
    tensors: tuple[TensorReport, ...]


@dataclass(frozen=True)
class Situation:
    """How the candidate does where it is called in another way; ``words`` unless it agrees.

    ``NOT JUDGED`` where the reference changes in this situation as well, or raises.
    """

    name: str
    verdict: str
    words: str = ""
    tensor: str = ""
    next_step: str = ""


@dataclass(frozen=True)
class Finding:
    """What kind of wrong one tensor is, in words.

    ``kind`` is one word for machines (``factor``, ``transposed``, ``sign``, ...). ``here`` is True
    where what came in was right and this tensor is wrong, False where what came in was wrong
    already, None where that is not known. Findings are in backward order: look at the first one
    first.
    """

    tensor: str
    kind: str
    words: str
    here: bool | None
    next_step: str


@dataclass(frozen=True)
class GradientReport:
    """What ``compare_gradients`` found; ``reports.terminal.print_report`` prints it.

    Attributes:
        candidate: its name.
        reference: its name.
        checks: one for each seed and kind of run: ``kind``, ``seed``, ``tensors``.
        power: which planted faults were seen; None where power was not asked for.
        findings: what kind of wrong it is, in words; look at the first one first.
        setup: what was run, by name: inputs, loss, seeds, the rule, versions.
        repro: the file that runs it again; None where none was asked for.
        situations: how the candidate does where it is called in another way.

    Example:
        >>> import torch
        >>> from manualbp.parity import compare_gradients
        >>> def doubled(x):  # tanh x, but with a gradient twice as large
        ...     return 2 * torch.tanh(x) - torch.tanh(x).detach()
        >>> report = compare_gradients(doubled, torch.tanh, torch.randn(8, 6))
        >>> report.agrees, report.worst.name, report.findings[0].kind
        (False, 'input.grad', 'factor')
    """

    candidate: str
    reference: str
    checks: tuple[Check, ...]
    power: PowerReport | None = None
    findings: tuple[Finding, ...] = ()
    setup: dict[str, str] = field(default_factory=dict)
    repro: str | None = None
    situations: tuple[Situation, ...] = ()

    @property
    def tensors(self) -> tuple[TensorReport, ...]:
        """The worst report of each tensor over the seeds, for every kind of check."""
        found: dict[tuple[str, str], TensorReport] = {}
        for check in self.checks:
            for tensor in check.tensors:
                key = check.kind, tensor.name
                found[key] = max(found.get(key, tensor), tensor, key=_badness)
        return tuple(found.values())

    @property
    def differing(self) -> tuple[TensorReport, ...]:
        """The tensors that differ."""
        return tuple(tensor for tensor in self.tensors if tensor.verdict == DIFFER)

    @property
    def unjudged(self) -> tuple[TensorReport, ...]:
        """The tensors that cannot be judged."""
        return tuple(tensor for tensor in self.tensors if tensor.verdict == NOT_JUDGED)

    @property
    def failed(self) -> tuple[Situation, ...]:
        """The situations in which the candidate differs."""
        return tuple(s for s in self.situations if s.verdict == DIFFER)

    @property
    def verdict(self) -> str:
        """``agree``, ``DIFFER``, ``NOT JUDGED``, or ``NO POWER`` where a fault would not show."""
        if self.differing or self.failed:
            return DIFFER
        if self.unjudged:
            return NOT_JUDGED
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
        """The tensor to look at first; one that differs, else the one nearest to its limit."""
        return max(self.tensors, key=_badness)


def over(error: float, allowed: float) -> float:
    """Error over allowed; infinity where nothing is allowed and there is an error."""
    if allowed > 0:
        return error / allowed
    return math.inf if error > 0 else error  # 0 of 0 is nothing; NaN stays NaN


def _badness(tensor: TensorReport) -> tuple[int, bool, float]:
    place = (AGREE, NOT_JUDGED, DIFFER).index(tensor.verdict)
    return (place, not tensor.bit_identical, tensor.share)
