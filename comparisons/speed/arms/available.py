"""Which arms there are on this machine: what makes them, and notes on those that are absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from comparisons import machine
from comparisons.speed.arms import derivatives, peers
from comparisons.speed.arms.agreement import differing
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    COMPILE_LOSS,
    FUSED,
    JAX_JET,
    JET,
    Arm,
    Problem,
)
from comparisons.speed.arms.pytorch import Compiler, eager_arms, graph_makers
from comparisons.speed.workloads import BUSY_PART, DERIVATIVES_PART, TRAINING, Workload

Maker = Arm | Callable[[], Arm | None]
# The parts that torch.compile takes part in: it takes seconds for every network.
COMPILING = ("rows", "batch", "gpu")
# Before its steps are timed, an arm compiles; torch.compile's graphs warm up, record and replay.
FIRST_STEPS, FIRST_STEPS_GPU = 1, 3
MEMORY_OF_GRAPHS = "memory of graphs: all that their pool keeps, in blocks of 2 MB and more"


class AvailableArms:
    """Makes the arms of a workload, and a note for each that it cannot make, or that is wrong.

    Args:
        wanted: parts and workloads to be measured; what none of them needs is not tried.
        device: where.
        compiling: whether torch.compile may take its time.
    """

    def __init__(
        self, wanted: Sequence[tuple[str, Workload]], device: torch.device, compiling: bool
    ) -> None:
        by_input = any(part == DERIVATIVES_PART for part, _ in wanted)
        self._peers, self.notes = peers.available(device, by_input)
        self.differing: list[str] = []
        self._compiler: Compiler | None = None
        self._graphs = device.type == "cuda"
        if self._graphs:
            self.notes.append(MEMORY_OF_GRAPHS)
        training = any(part in COMPILING and w.step == TRAINING for part, w in wanted)
        if not (training or by_input):
            return
        reason = machine.no_compiler(device) if compiling else "no torch.compile with --quick"
        if reason:
            self.notes.append(reason)
        else:
            self._compiler = Compiler(tuning=self._graphs)

    def arms(self, part: str, problem: Problem) -> dict[str, Arm]:
        """Every arm that has such a step and has taken one; a note for those that raised."""
        others: dict[str, Maker] = {
            name: partial(make, problem) for name, make in self._peers.items()
        }
        if part == DERIVATIVES_PART:
            if self._compiler:
                others[COMPILE_LOSS] = partial(derivatives.compiled_arm, problem)
            return self.made(part, problem, {**derivatives.eager_arms(problem), **others})
        there = eager_arms(problem)
        if part == BUSY_PART:
            pair = {name: arm for name, arm in there.items() if name in (AUTOGRAD, FUSED)}
            return self.made(part, problem, pair)
        if self._compiler and part in COMPILING:
            there |= self._compiler.arms(problem, dynamic=part == "batch")
        makers: dict[str, Maker] = {**there}
        if self._graphs:
            makers |= graph_makers(problem)
        makers |= {name: make for name, make in others.items() if name not in (JAX_JET, JET)}
        return self.made(part, problem, makers)

    def made(self, part: str, problem: Problem, makers: Mapping[str, Maker]) -> dict[str, Arm]:
        """The arms after their first steps; without those that computed something else."""
        found: dict[str, Arm] = {}
        for name, make in makers.items():
            try:
                arm = make if isinstance(make, Arm) else make()
                if arm is None:
                    continue
                for _ in range(FIRST_STEPS_GPU if self._graphs else FIRST_STEPS):
                    arm.step()
                found[name] = arm
            except Exception as error:  # of memory, a compiler, a recording: no common class
                self.leave_out(part, problem.workload, error, name)
        wrong = differing(problem, found) if AUTOGRAD in found else {}
        self.differing += [f"{part}: {line}" for line in wrong.values()]
        return {name: arm for name, arm in found.items() if name not in wrong}

    def leave_out(self, part: str, workload: Workload, error: Exception, arm: str = "all") -> None:
        """A note that this arm of the workload is absent, and why."""
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        self.notes.append(
            f"left out of {part}: {arm} of {workload.words} ({type(error).__name__}: {reason})"
        )
