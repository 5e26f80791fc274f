"""What the steps of two trainings side by side have shown, as data."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import NamedTuple


class ArmStep(NamedTuple):
    """What one arm did in one step: ``metrics`` on the batch, loss included, before the update."""

    metrics: dict[str, float]
    learning_rate: float
    gradient_norms: dict[str, float]  # Euclidean, per layer: its weight and bias together
    seconds: float


class Step(NamedTuple):
    """One step of both arms, as ``train_side_by_side`` yields it.

    Attributes:
        number: of the step, from 1.
        candidate: what it did: ``metrics`` (with ``loss``) on the batch before the update,
            ``learning_rate``, ``gradient_norms`` by layer, ``seconds``.
        reference: the same of the reference.
        divergence: ``max |candidate - reference|`` of the loss and of every gradient, parameter and
            buffer by its name; 0 only where every bit agrees.

    Example:
        >>> import copy
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import Arm, train_side_by_side
        >>> def arm(name, net):
        ...     return Arm(name, net, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))
        >>> net, batch = nn.Linear(4, 2), (torch.randn(8, 4), torch.randn(8, 2))
        >>> arms = arm("ours", net), arm("theirs", copy.deepcopy(net))
        >>> step = next(train_side_by_side(*arms, [batch]))
        >>> step.number, sorted(step.divergence)
        (1, ['bias', 'bias.grad', 'loss', 'weight', 'weight.grad'])
    """

    number: int  # from 1
    candidate: ArmStep
    reference: ArmStep
    divergence: dict[str, float]


class LargestDivergence(NamedTuple):
    """The largest divergence of a run, and where it was first seen."""

    divergence: float
    tensor: str
    step: int


@dataclass
class SideBySide:
    """What two trainings side by side have shown; ``add`` takes one step after another.

    Attributes:
        steps: how many were added.
        first_difference: (step, names of the tensors that differed in it); None without any.
        worst: (divergence, tensor, step) of the largest; None without any.
        last: the newest step.
        seconds: of every step, by "candidate" and "reference".

    Example:
        >>> import copy
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import Arm, SideBySide, train_side_by_side
        >>> def arm(name, net, lr):
        ...     return Arm(name, net, nn.MSELoss(), torch.optim.SGD(net.parameters(), lr))
        >>> net, batch = nn.Linear(4, 2), (torch.randn(8, 4), torch.randn(8, 2))
        >>> arms, seen = [arm("a", net, 0.1), arm("b", copy.deepcopy(net), 0.2)], SideBySide()
        >>> for step in train_side_by_side(*arms, [batch] * 3):
        ...     seen.add(step)
        >>> seen.steps, seen.bit_identical, seen.first_difference
        (3, False, (1, ['weight', 'bias']))
    """

    steps: int = 0
    first_difference: tuple[int, list[str]] | None = None  # step, tensors
    worst: LargestDivergence | None = None
    last: Step | None = None
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {"candidate": [], "reference": []}
    )

    def add(self, step: Step) -> None:
        """Take in one step."""
        self.steps, self.last = step.number, step
        self.seconds["candidate"].append(step.candidate.seconds)
        self.seconds["reference"].append(step.reference.seconds)
        differing = [name for name, apart in step.divergence.items() if apart != 0]
        if differing and self.first_difference is None:
            self.first_difference = step.number, differing
        for name in differing:
            if self.worst is None or step.divergence[name] > self.worst.divergence:
                self.worst = LargestDivergence(step.divergence[name], name, step.number)

    @property
    def bit_identical(self) -> bool:
        """No loss, gradient or parameter differed in a bit at any step, and there was a step."""
        return self.steps > 0 and self.first_difference is None

    def milliseconds(self, arm: str) -> float:
        """Median time of a step: forward, backward and update, without comparing and logging."""
        return 1e3 * statistics.median(self.seconds[arm]) if self.steps else float("nan")
