"""One cell: its arms are made, timed in turns, and their memory measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from comparisons.speed import peers, timing
from comparisons.speed.arms import Arm, Compiler, Problem, problem, torch_arms
from comparisons.speed.grid import Row
from comparisons.speed.results import Result
from comparisons.speed.steps import TRAINING
from comparisons.speed.timing import Budget

# The parts that torch.compile takes part in: it takes seconds for every network.
COMPILING = ("rows", "batch")


class Makers:
    """Who makes the arms of a cell, and a note for everyone who cannot.

    Args:
        cells: what is going to be measured; what none of them needs is not tried.
        device: where.
        compiling: whether torch.compile may take its time.
    """

    def __init__(
        self, cells: Sequence[tuple[str, Row]], device: torch.device, compiling: bool
    ) -> None:
        self._peers, self.notes = peers.available(device)
        self._compiler: Compiler | None = None
        if not any(part in COMPILING and row.step == TRAINING for part, row in cells):
            return
        compiler = Compiler()
        reason = compiler.missing(device) if compiling else "no torch.compile with --quick"
        if reason:
            self.notes.append(reason)
        else:
            self._compiler = compiler

    def arms(self, part: str, problem: Problem) -> dict[str, Arm]:
        """Every arm that has such a step."""
        found = torch_arms(problem)
        if self._compiler and part in COMPILING:
            found |= self._compiler.arms(problem, dynamic=part == "batch")
        made = {name: peer(problem) for name, peer in self._peers.items()}
        return found | {name: arm for name, arm in made.items() if arm}


def measured(
    part: str, row: Row, makers: Makers, budget: Budget, seed: int, device: torch.device,
) -> Result:  # fmt: skip
    """Times first, then the memory: measuring that makes a step slower. The floor comes later."""
    arms = makers.arms(part, problem(row, seed, device))
    steps = {name: arm.step for name, arm in arms.items()}
    times = timing.measure(steps, budget, timing.clock_of(device))
    peaks = {name: arm.peak() for name, arm in arms.items()}
    known = {name: size for name, size in peaks.items() if size is not None}
    return Result(part, row, times, known)
