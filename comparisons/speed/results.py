"""What was measured of each workload, and what follows from it: medians, ratios, means."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from comparisons.speed.arms.arm import ARMS, AUTOGRAD, AUTOGRAD_GRAPHS, COMPILED, JAX, OURS
from comparisons.speed.workloads import TABLE, Workload

OTHERS = {
    "autograd": (AUTOGRAD,), "compile": COMPILED, "graphs": (AUTOGRAD_GRAPHS,), "JAX": (JAX,),
}  # fmt: skip


class Ratio(NamedTuple):
    """The median of the rounds' own ratios, and half the distance of their quartiles."""

    median: float
    spread: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ±{self.spread:.2f}"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """above / below, round by round: what slows a round slows both, and cancels."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    low, _, high = quartiles(each)
    return Ratio(statistics.median(each), (high - low) / 2)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Of one value, that value three times."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


@dataclass(frozen=True)
class Result:
    """Of a workload: seconds per step of every arm and round, bytes per arm, floors in seconds."""

    part: str
    workload: Workload
    times: Mapping[str, list[float]]
    memory: Mapping[str, int]
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def floor(self) -> float | None:
        """Seconds of the larger floor."""
        return max(self.floors.values(), default=None)

    def median(self, arm: str) -> float:
        """Seconds per step."""
        return statistics.median(self.times[arm])

    def milliseconds(self, arm: str) -> float | None:
        """The median; None where the arm is absent, as in all that follows."""
        return 1e3 * self.median(arm) if arm in self.times else None

    def megabytes(self, arm: str) -> float | None:
        """The peak of a step."""
        return self.memory[arm] / 1e6 if arm in self.memory else None

    def fastest(self, arms: Iterable[str]) -> str | None:
        """The one of these arms with the smallest median."""
        return min((arm for arm in arms if arm in self.times), key=self.median, default=None)

    def ratio(self, above: str | None, below: str | None) -> Ratio | None:
        """above / below."""
        if above is None or below is None or not {above, below} <= set(self.times):
            return None
        return ratio(self.times[above], self.times[below])

    def speed_up(self, arm: str) -> float | None:
        """autograd / arm."""
        found = self.ratio(AUTOGRAD, arm)
        return found.median if found else None

    def against_ours(self, arms: Iterable[str]) -> Ratio | None:
        """The fastest of the arms over the fastest of ours: above 1 ours is faster."""
        return self.ratio(self.fastest(arms), self.fastest(OURS))

    def over_floor(self, arm: str | None) -> float | None:
        """How many times the floor a step takes."""
        if arm is None or arm not in self.times or self.floor is None:
            return None
        return self.median(arm) / self.floor


def present(results: Iterable[Result]) -> list[str]:
    """The arms that were measured at all, in their order."""
    found = {arm for result in results for arm in result.times}
    return [arm for arm in ARMS if arm in found]


def geometric_means(results: Sequence[Result]) -> list[str]:
    """Over the rows of each step: autograd, torch.compile, graphs and JAX over each of ours."""
    rows = [result for result in results if result.part in TABLE]
    lines = []
    for step in dict.fromkeys(result.workload.step for result in rows):
        of_step = [result for result in rows if result.workload.step == step]
        for words, others in OTHERS.items():
            each = [f"{ours} {mean:.2f}" for ours in OURS if (mean := _mean(of_step, others, ours))]
            if each:
                lines.append(f"{step}: {words} / ours, geometric mean: {', '.join(each)}")
    return lines


def _mean(results: Sequence[Result], others: Sequence[str], ours: str) -> float | None:
    found = [(result.fastest(others), result) for result in results if ours in result.times]
    ratios = [result.median(arm) / result.median(ours) for arm, result in found if arm]
    return statistics.geometric_mean(ratios) if ratios else None
