"""What was measured, what follows from it, and how it is kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from comparisons.speed.arms.pytorch import ARMS, AUTOGRAD, AUTOGRAD_GRAPHS, COMPILED, JAX, OURS
from comparisons.speed.floor import PRODUCTS, Rates
from comparisons.speed.workloads import Row

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
    """One cell: seconds per step of every arm and round, bytes per arm, seconds of the floors."""

    part: str
    row: Row
    times: Mapping[str, list[float]]
    memory: Mapping[str, int]
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def floor(self) -> float | None:
        """Seconds of the larger one."""
        return max(self.floors.values(), default=None)

    def median(self, arm: str) -> float:
        """Seconds per step."""
        return statistics.median(self.times[arm])

    def fastest(self, arms: Iterable[str]) -> str | None:
        """Of those that are there, by their medians."""
        return min((arm for arm in arms if arm in self.times), key=self.median, default=None)

    def ratio(self, above: str | None, below: str | None) -> Ratio | None:
        """above / below; None where one is not there."""
        if above is None or below is None or not {above, below} <= set(self.times):
            return None
        return ratio(self.times[above], self.times[below])

    def against_ours(self, arms: Iterable[str]) -> Ratio | None:
        """The fastest of the arms over the fastest of ours: above 1 ours is faster."""
        return self.ratio(self.fastest(arms), self.fastest(OURS))

    def over_floor(self, arm: str | None) -> float | None:
        """How many times its floor a step takes."""
        if arm is None or arm not in self.times or self.floor is None:
            return None
        return self.median(arm) / self.floor


def present(results: Iterable[Result]) -> list[str]:
    """The arms that were measured at all, in their order."""
    found = {arm for result in results for arm in result.times}
    return [arm for arm in ARMS if arm in found]


def geometric_means(results: Sequence[Result]) -> str:
    """Over the rows of each step: autograd, torch.compile, graphs and JAX over each of ours."""
    lines = []
    for step in dict.fromkeys(result.row.step for result in results):
        of_step = [result for result in results if result.row.step == step]
        for words, others in OTHERS.items():
            each = [f"{ours} {mean:.2f}" for ours in OURS if (mean := _mean(of_step, others, ours))]
            if each:
                lines.append(f"{step}: {words} / ours, geometric mean: {', '.join(each)}")
    return "\n".join(lines)


def _mean(results: Sequence[Result], others: Sequence[str], ours: str) -> float | None:
    found = [(result.fastest(others), result) for result in results if ours in result.times]
    ratios = [result.median(arm) / result.median(ours) for arm, result in found if arm]
    return statistics.geometric_mean(ratios) if ratios else None


def record(
    results: Sequence[Result],
    machine: Mapping[str, str | int],
    rates: Rates | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Everything, as it is written to speed.json; times in seconds, memory in bytes.

    ``rates`` is None where the run ended before they were measured.
    """
    return {
        "machine": dict(machine),
        "operations_per_second": dict(rates.operations) if rates else {},
        "bytes_per_second": rates.bytes if rates else None,
        "notes": list(notes),
        "cells": [_cell(result) for result in results],
    }


def _cell(result: Result) -> dict[str, Any]:
    arms = {}
    for arm, seconds in result.times.items():
        low, middle, high = quartiles(seconds)
        arms[arm] = {
            "seconds": list(seconds),
            "median": middle,
            "quartiles": [low, high],
            "autograd_over_this": _pair(result.ratio(AUTOGRAD, arm)),
            "over_floor": result.over_floor(arm),
            "peak_bytes": result.memory.get(arm),
        }
    return {
        "part": result.part,
        **asdict(result.row),
        "widths": list(result.row.widths),
        "floor_seconds": result.floor,
        "floors": dict(result.floors),
        "fastest_of_ours": result.fastest(OURS),
        "compile_over_ours": _pair(result.against_ours(COMPILED)),
        "graphs_over_ours": _pair(result.against_ours([AUTOGRAD_GRAPHS])),
        "jax_over_ours": _pair(result.against_ours([JAX])),
        "arms": arms,
    }


def _pair(found: Ratio | None) -> dict[str, float] | None:
    return None if found is None else found._asdict()


def from_record(written: Mapping[str, Any]) -> list[Result]:
    """The results that a record was made of."""
    return [
        Result(
            cell["part"],
            Row(cell["step"], tuple(cell["widths"]), cell["batch"], cell["activation"],
                cell["dtype"]),
            {arm: found["seconds"] for arm, found in cell["arms"].items()},
            {arm: found["peak_bytes"] for arm, found in cell["arms"].items()
             if found["peak_bytes"] is not None},
            _floors(cell),
        )
        for cell in written["cells"]
    ]  # fmt: skip


def _floors(cell: Mapping[str, Any]) -> dict[str, float]:
    """Records of before there were two have that of the products."""
    if "floors" in cell or cell["floor_seconds"] is None:
        return dict(cell.get("floors", {}))
    return {PRODUCTS: cell["floor_seconds"]}


def text(written: Mapping[str, Any]) -> str:
    """The record as JSON; NaN is an error, not a word that no other reader knows."""
    return json.dumps(written, indent=1, allow_nan=False) + "\n"
