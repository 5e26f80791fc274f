"""Both arms of a problem, in turns on the same points: their losses, errors and times."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from comparisons.physics.deepxde_poisson import DeepXDEPoisson
from comparisons.physics.pde import PDE
from comparisons.physics.ways import AUTOGRAD, MANUAL
from manualbp.parity.cli.progress import TrainingProgress
from manualbp.parity.reports.tensorboard import RunLog

# Both arms trained to the same error where the larger one is at most so many times the smaller.
FACTOR = 2.0
# The gradients of the first step, |by hand - autograd| / |autograd|: float32 rounds to 6e-8, and
# what was seen is 1.3e-7. A derivative that is wrong in a term gives 3e-4 and more, less than in
# the derivative itself: most of a gradient is from where u is given.
APART = 1e-5
LOSSES, ERRORS = 200, 20  # points of a curve
# TensorBoard sorts tags by name, and opens the first two groups.
ERROR, LOSS = "1_error/{}", "2_loss/{}"


@dataclass
class Trained:
    """What a training of both arms has shown; each list by arm."""

    problem: PDE | DeepXDEPoisson
    steps: int
    gradients_apart: float  # of the first step
    losses_apart: float = 0.0  # the largest difference on the way, over the larger loss
    errors: dict[str, list[float]] = field(default_factory=lambda: {AUTOGRAD: [], MANUAL: []})
    seconds: dict[str, list[float]] = field(default_factory=lambda: {AUTOGRAD: [], MANUAL: []})
    solutions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def factor(self) -> float:
        """The larger of the two errors at the end over the smaller."""
        low, high = sorted(found[-1] for found in self.errors.values())
        return high / low if low > 0 else math.inf

    @property
    def fault(self) -> str:
        """Why the arms did not train to the same error; "" where they did."""
        if not self.gradients_apart <= APART:
            return f"gradients of the first step {self.gradients_apart:.1e} apart"
        for arm, (first, *_, last) in self.errors.items():
            if not last < first:
                return f"the error of {arm} did not fall: {first:.3g} to {last:.3g}"
        return "" if self.factor <= FACTOR else f"errors {self.factor:.1f} times apart"

    def milliseconds(self, arm: str) -> float:
        """Of a step: forward, loss, backward, Adam; the median."""
        return 1e3 * statistics.median(self.seconds[arm])

    @property
    def speed_up(self) -> float:
        """autograd / by hand: the median of each turn's own ratio."""
        pairs = zip(self.seconds[AUTOGRAD], self.seconds[MANUAL], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def calls(problem: PDE | DeepXDEPoisson, steps: int) -> int:
    """How often a learner is called for so many steps."""
    return -(-steps // min(problem.steps_per_call, steps))


def train(
    problem: PDE | DeepXDEPoisson, steps: int, seed: int, log: RunLog, bar: TrainingProgress
) -> Trained:
    """Both arms from the same weights."""
    learners: dict[str, Any] = dict(problem.learners(seed, steps))
    generator = torch.Generator().manual_seed(seed)
    grid = problem.grid()
    exact = problem.exact(grid)
    points = problem.sample(generator)
    theirs, ours = (torch.cat([g.flatten() for g in learners[arm].gradients(points)])
                    for arm in (AUTOGRAD, MANUAL))  # fmt: skip
    result = Trained(problem, 0, float((ours - theirs).norm() / theirs.norm()))

    def judge() -> None:
        for arm, learner in learners.items():
            result.solutions[arm] = learner.solution(grid)
            error = float((result.solutions[arm] - exact).norm() / exact.norm())
            result.errors[arm].append(error)
            log.scalar(arm, ERROR.format(problem.name), error, result.steps)

    judge()
    per_call, count = min(problem.steps_per_call, steps), calls(problem, steps)
    for call in range(count):
        losses = {}
        order = (AUTOGRAD, MANUAL) if call % 2 else (MANUAL, AUTOGRAD)
        for arm in order:
            start = time.perf_counter()
            losses[arm] = learners[arm].train(points)
            result.seconds[arm].append((time.perf_counter() - start) / per_call)
        result.steps += per_call
        low, high = sorted(losses.values())
        result.losses_apart = max(result.losses_apart, (high - low) / high if high > 0 else 0.0)
        last = call == count - 1
        if call % max(count // LOSSES, 1) == 0 or last:
            for arm, loss in losses.items():
                log.scalar(arm, LOSS.format(problem.name), loss, result.steps)
        if (call + 1) % max(count // ERRORS, 1) == 0 or last:
            judge()
        points = problem.sample(generator)
        bar.step(losses[MANUAL], problem.name)
    return result
