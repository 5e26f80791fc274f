"""The results as tables and in words."""

from __future__ import annotations

from collections.abc import Sequence

from comparisons.output import Table
from comparisons.physics.loop import FACTOR, Trained
from comparisons.physics.ways import AUTOGRAD, MANUAL
from manualbp.parity.reports.words import scientific


def errors(results: Sequence[Trained], title: str) -> Table:
    """The relative L2 errors at the end, |u - exact| / |exact|, and how far the arms were apart."""
    columns = ["problem", "steps", "error,\nautograd", "error,\nmanual", "times\napart",
               "gradients apart,\nfirst step", "losses apart,\nat most", "verdict"]  # fmt: skip
    return Table(title, columns, [
        [r.problem.name, str(r.steps), *(f"{r.errors[arm][-1]:.2e}" for arm in (AUTOGRAD, MANUAL)),
         f"{r.factor:.2f}", scientific(r.gradients_apart), scientific(r.losses_apart),
         "DIFFER" if r.fault else "agree"]
        for r in results
    ])  # fmt: skip


def times(results: Sequence[Trained]) -> Table:
    """Of a step: forward, loss, backward and Adam."""
    columns = ["problem", "ms, autograd", "ms, manual", "autograd / manual"]
    return Table("Time of a step, medians, the arms in turns", columns, [
        [r.problem.name, *(f"{r.milliseconds(arm):.3f}" for arm in (AUTOGRAD, MANUAL)),
         f"{r.speed_up:.2f}"]
        for r in results
    ])  # fmt: skip


def equations(results: Sequence[Trained]) -> Table:
    """What was solved, and what the error is measured against."""
    rows = [[r.problem.name, r.problem.equation, r.problem.solution] for r in results]
    return Table("The problems", ["problem", "equation", "its solution"], rows)


def verdict(results: Sequence[Trained]) -> list[str]:
    """In a few lines of words."""
    faults = [f"{r.problem.name} DIFFERS: {r.fault}" for r in results if r.fault]
    if faults or not results:
        return faults
    count = len(results)
    of = "1 problem: its" if count == 1 else f"{count} problems: their"
    largest = max(r.factor for r in results)
    return [
        f"both arms trained to the same error on {of} errors at the end are at most "
        f"{largest:.2f} times apart ({FACTOR:g} are allowed)",
        "the arms round differently and Adam carries that on: on the way their losses are up to "
        f"{scientific(max(r.losses_apart for r in results))} of the larger one apart; so the "
        "errors at the end are judged, and the gradients of the first step",
    ]
