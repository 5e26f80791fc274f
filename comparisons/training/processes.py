"""The processes of one training: one by itself, or those that torchrun started.

    torchrun --nproc-per-node 2 -m comparisons training

Processes must meet in the same exchanges in the same order, or they wait for each other for ever.
Therefore no process decides alone: an error before the first step, the wish to stop and the verdict
are exchanged, and every process acts on what was exchanged. Only the first one prints and logs.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
import torch.distributed as dist

from comparisons.output import error_line
from comparisons.training.shares import Replica, Shares
from manualbp.parity.cli.options import UsageError
from manualbp.parity.step_record import Step
from manualbp.parity.trajectories.side_by_side import Arm

# How long torchrun may take to tell the others that it has lost one of them.
NOTICE_SECONDS = 5.0

T = TypeVar("T")


@dataclass
class Group:
    """One process by itself: nothing is exchanged, Ctrl-C is a KeyboardInterrupt."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and logs."""
        return self.rank == 0

    @property
    def command(self) -> str:
        """What ``-m comparisons ...`` follows, to run the same again."""
        return "python"

    def share(self, error: str) -> str:
        """The error of the first process that has one, the same text in all; "" for none."""
        return error

    def agree(self, error: str) -> str:
        """As ``share``, while the run can still be given up without a trace.

        Raises:
            KeyboardInterrupt: one of the processes was asked to stop; raised in all.
        """
        return error

    def in_all(self, work: Callable[[], T], exchange: Callable[[str], str] | None = None) -> T:
        """What ``work`` returns; every process does it, and an error in one is an error in all.

        ``exchange`` is what the processes do with their errors: ``agree`` unless given.
        """
        refused = None
        try:
            done = work()
        except (UsageError, ImportError) as error:
            refused = error
        agreed = (exchange or self.agree)(error_line(refused) if refused else "")
        if refused or agreed:
            raise refused or UsageError(agreed)
        return done

    def device(self, asked: torch.device) -> torch.device:
        """This process's own device of the kind that was asked for.

        Raises:
            ValueError: there is not one for each process.
        """
        return asked

    def data_parallel(self, arm: Arm, shares: Shares) -> Arm:
        """The arm as it trains on its shares, with gradients that are the mean over all rows."""
        return arm

    def merge(self, step: Step) -> Step:
        """The step over all processes: the largest divergence and time, the mean of each metric.

        Raises:
            KeyboardInterrupt: one of them was asked to stop; raised in all, after the same step.
        """
        return step

    def ended(self) -> bool:
        """After an exchange that failed: whether the run is ended, since a process is gone."""
        return False


@dataclass
class Launched(Group):
    """One of the processes that torchrun started.

    Numbers and texts are exchanged over gloo. Gradients are exchanged over ``data``: gloo too, or
    NCCL once the device is known to be CUDA. SIGINT and SIGTERM are noted in ``signals``; in the
    next exchange all processes act on them at once. So it changes nothing that torchrun passes a
    second SIGINT on after a Ctrl-C.
    """

    local_rank: int = 0
    local_size: int = 1
    signals: list[int] = field(default_factory=list)
    data: dist.ProcessGroup | None = None
    whole: bool = True  # all processes are there, as far as this one knows

    @property
    def command(self) -> str:
        nodes = self.size // self.local_size
        several = f"--nnodes {nodes} " if nodes > 1 else ""
        return f"torchrun {several}--nproc-per-node {self.local_size}"

    def share(self, error: str) -> str:
        found = [""] * self.size
        dist.all_gather_object(found, error)
        return next((text for text in found if text), "")

    def agree(self, error: str) -> str:
        self._gather([])
        return self.share(error)

    def device(self, asked: torch.device) -> torch.device:
        if asked.type != "cuda":
            return asked
        present = torch.cuda.device_count()
        if asked.index is not None and self.local_size > 1:
            raise ValueError(
                f"expected a device for each of {self.local_size} processes, got {asked} for all; "
                "use --device cuda, which gives each its own"
            )
        if self.local_size > present:
            raise ValueError(
                f"expected a CUDA device for each of {self.local_size} processes, got {present}; "
                f"use torchrun --nproc-per-node {present}, or --device cpu"
            )
        own = asked if asked.index is not None else torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own

    def data_parallel(self, arm: Arm, shares: Shares) -> Arm:
        device = next(arm.module.parameters()).device
        if device.type == "cuda" and self.data is None:
            self.data = dist.new_group(backend="nccl")
        return replace(
            arm,
            module=Replica(arm.module, self.data),
            loss=shares.weighted(arm.loss),
            metrics={name: shares.weighted(metric) for name, metric in arm.metrics.items()},
        )

    def merge(self, step: Step) -> Step:
        arms = step.candidate, step.reference
        largest = [*step.divergence.values(), *(arm.seconds for arm in arms)]
        means = [value for arm in arms for value in arm.metrics.values()]
        columns = iter(self._gather([*largest, *means]))
        divergence = {name: max(next(columns)) for name in step.divergence}
        seconds = [max(next(columns)) for _ in arms]
        candidate, reference = (
            arm._replace(
                metrics={name: sum(next(columns)) / self.size for name in arm.metrics},
                seconds=longest,
            )
            for arm, longest in zip(arms, seconds, strict=True)
        )
        return Step(step.number, candidate, reference, divergence)

    def ended(self) -> bool:
        deadline = time.monotonic() + NOTICE_SECONDS
        while not self.signals and time.monotonic() < deadline:
            time.sleep(0.05)
        self.whole = not self.signals
        return bool(self.signals)

    def _gather(self, numbers: list[float]) -> list[tuple[float, ...]]:
        """For each number, those of all processes in their order.

        Raises:
            KeyboardInterrupt: one of them was asked to stop; raised in all.
        """
        own = torch.tensor([float(bool(self.signals)), *numbers], dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        asked_to_stop, *columns = zip(*(values.tolist() for values in found), strict=True)
        if any(asked_to_stop):
            raise KeyboardInterrupt
        return columns


@contextmanager
def joined() -> Iterator[Group]:
    """The group of processes that this one belongs to; at the end all leave together.

    torchrun ends every process as soon as one has ended with another exit code than 0, and the
    first may still be printing. After an exception no process waits for the others.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Group()
        return
    # Imported while a group exists, this module would keep the group in its default arguments for
    # ever. The threads of a group that is not freed can abort a process at its end with SIGABRT.
    importlib.import_module("torch.distributed.nn.functional")
    local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    dist.init_process_group("gloo")
    group = Launched(dist.get_rank(), dist.get_world_size(), *local)
    before = {
        number: signal.signal(number, lambda got, _: group.signals.append(got))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield group
        if group.whole:
            dist.barrier()
    except BaseException:
        for number, handler in before.items():
            signal.signal(number, handler)
        raise
    else:
        for number in before:  # only the exit code is still to be returned
            signal.signal(number, signal.SIG_IGN)
    finally:
        dist.destroy_process_group()
