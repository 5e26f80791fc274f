"""One cell: its arms are made, timed in turns, and their memory measured."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from comparisons.speed import dtypes, timing
from comparisons.speed.arms import cuda_graphs as graphs
from comparisons.speed.arms import peers
from comparisons.speed.arms.pytorch import AUTOGRAD, Arm, Compiler, Problem, problem, torch_arms
from comparisons.speed.costs import TRAINING
from comparisons.speed.results import Result
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import Row

# The parts that torch.compile takes part in: it takes seconds for every network.
COMPILING = ("rows", "batch", "gpu")
# Before it is one, an arm compiles; torch.compile's graphs warm up, record and replay.
FIRST_STEPS, FIRST_STEPS_GPU = 1, 3
MEMORY_OF_GRAPHS = "memory of graphs: all that their pool keeps, in blocks of 2 MB and more"


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
        self._graphs = device.type == "cuda"
        if self._graphs:
            self.notes.append(MEMORY_OF_GRAPHS)
        if not any(part in COMPILING and row.step == TRAINING for part, row in cells):
            return
        compiler = Compiler(tuning=device.type == "cuda")
        reason = compiler.missing(device) if compiling else "no torch.compile with --quick"
        if reason:
            self.notes.append(reason)
        else:
            self._compiler = compiler

    def arms(self, part: str, problem: Problem) -> dict[str, Arm]:
        """Every arm that has such a step and has taken one; a note for those that raised."""
        there = torch_arms(problem)
        if self._compiler and part in COMPILING:
            there |= self._compiler.arms(problem, dynamic=part == "batch")
        makers: dict[str, Callable[[], Arm | None]] = {
            name: partial(_itself, arm) for name, arm in there.items()
        }
        if self._graphs:
            makers |= graphs.makers(problem)
        makers |= {name: partial(peer, problem) for name, peer in self._peers.items()}
        return self.made(part, problem.row, makers)

    def made(
        self, part: str, row: Row, makers: Mapping[str, Callable[[], Arm | None]]
    ) -> dict[str, Arm]:
        """The arms after their first steps."""
        found: dict[str, Arm] = {}
        steps = FIRST_STEPS_GPU if self._graphs else FIRST_STEPS
        for name, make in makers.items():
            try:
                arm = make()
                if arm is None:
                    continue
                for _ in range(steps):
                    arm.step()
                found[name] = arm
            except Exception as error:  # out of memory, of a compiler, of a record: no common class
                self.leave_out(part, row, error, name)
        return found

    def leave_out(self, part: str, row: Row, error: Exception, arm: str = "all") -> None:
        """A note that this arm of the cell is absent, and why."""
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        self.notes.append(
            f"left out of {part}: {arm} of {row.words} ({type(error).__name__}: {reason})"
        )


def _itself(arm: Arm) -> Arm:
    return arm


def measured(
    part: str, row: Row, makers: Makers, budget: Budget, seed: int, device: torch.device,
) -> Result | None:  # fmt: skip
    """Times first, then the memory: measuring that makes a step slower. The floors come later.

    None, with a note, where memory does not suffice for the data, for autograd's arm, or for all.
    """
    if device.type == "cuda":
        gc.collect()  # the graphs of the cell before: their modules refer to themselves
        torch.cuda.empty_cache()
    try:
        with dtypes.products(row.dtype):
            arms = makers.arms(part, problem(row, seed, device))
            if AUTOGRAD not in arms:
                return None
            steps = {name: arm.step for name, arm in arms.items()}
            times = timing.measure(steps, budget, timing.clock_of(device))
            peaks = {name: arm.peak() for name, arm in arms.items()}
    except torch.OutOfMemoryError as error:
        makers.leave_out(part, row, error)
        return None
    known = {name: size for name, size in peaks.items() if size is not None}
    return Result(part, row, times, known)
