"""What was measured of each workload, and what follows from it: medians, ratios, means."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from comparisons.speed.arms.arm import ARMS, AUTOGRAD, AUTOGRAD_GRAPHS, COMPILED, JAX, JAX_JET
from comparisons.speed.workloads import Workload

OTHERS = {
    "autograd": (AUTOGRAD,), "compile": COMPILED, "graphs": (AUTOGRAD_GRAPHS,),
    "JAX": (JAX, JAX_JET),
}  # fmt: skip


class Ratio(NamedTuple):
    """The median of the rounds' own ratios, and half the distance of their quartiles."""

    median: float
    spread: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ±{self.spread:.2f}"


class Measured(NamedTuple):
    """Of one arm: seconds per step, autograd's time over its own, bytes at a step's height."""

    seconds: float
    speed_up: Ratio
    peak: int | None = None


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


def measured_arms(
    times: Mapping[str, Sequence[float]], peaks: Mapping[str, int | None]
) -> dict[str, Measured]:
    """The medians of the rounds; autograd is among the arms."""
    return {
        arm: Measured(statistics.median(each), ratio(times[AUTOGRAD], each), peaks.get(arm))
        for arm, each in times.items()
    }


@dataclass(frozen=True)
class Result:
    """Of a workload: what was measured of every arm, and the floors in seconds."""

    part: str
    workload: Workload
    arms: Mapping[str, Measured]
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def floor(self) -> float | None:
        """Seconds of the larger floor."""
        return max(self.floors.values(), default=None)

    def milliseconds(self, arm: str) -> float | None:
        """Of a step; None where the arm is absent, as in all that follows."""
        return 1e3 * self.arms[arm].seconds if arm in self.arms else None

    def megabytes(self, arm: str) -> float | None:
        """The peak of a step."""
        peak = self.arms[arm].peak if arm in self.arms else None
        return None if peak is None else peak / 1e6

    def fastest(self, arms: Iterable[str]) -> str | None:
        """The one of these arms with the largest speed-up."""
        there = [arm for arm in arms if arm in self.arms]
        return max(there, key=lambda arm: self.arms[arm].speed_up.median, default=None)

    def speed_up(self, arm: str) -> Ratio | None:
        """autograd / arm."""
        return self.arms[arm].speed_up if arm in self.arms else None

    def over(self, others: Iterable[str], arm: str | None) -> float | None:
        """The fastest of the others / arm, by what each is to autograd: above 1 arm is faster."""
        other = self.fastest(others)
        if other is None or arm is None or arm not in self.arms:
            return None
        return self.arms[arm].speed_up.median / self.arms[other].speed_up.median

    def over_floor(self, arm: str | None) -> float | None:
        """How many times the floor a step takes."""
        if arm is None or arm not in self.arms or self.floor is None:
            return None
        return self.arms[arm].seconds / self.floor


def present(results: Iterable[Result]) -> list[str]:
    """The arms that were measured at all, in their order."""
    found = {arm for result in results for arm in result.arms}
    return [arm for arm in ARMS if arm in found]


def geometric_mean(results: Iterable[Result], others: Sequence[str], arm: str) -> float | None:
    """Of others / arm, over the results that have both."""
    found = [value for result in results if (value := result.over(others, arm)) is not None]
    return statistics.geometric_mean(found) if found else None


def worst(results: Iterable[Result], arm: str) -> Result | None:
    """The cell in which the arm is slowest against autograd."""
    cells = [result for result in results if arm in result.arms]
    return min(cells, key=lambda result: result.arms[arm].speed_up.median, default=None)
