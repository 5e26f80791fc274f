"""Data-parallel training under torchrun: N processes, each with its share of every batch.

    torchrun --nproc-per-node 2 -m comparisons training

Batch of N rows, W processes, process r has n_r rows, as many as the others or one more or less:

    dC/dw = 1/N sum_n dC_n/dw = 1/W sum_r (W n_r / N) dC_r/dw        C_r the mean over its n_r rows

DistributedDataParallel takes 1/W sum_r, so each process weighs its C_r by W n_r / N, which is 1
where the rows divide evenly. A process left without a row works on one with weight 0, so that it
takes part in every exchange. No row is dropped, none counts twice.

Processes must meet in the same exchanges in the same order, or they wait for each other for ever.
Therefore nothing is decided alone: an error before the first step, the wish to stop and the verdict
are exchanged, and every process acts on what was exchanged. Only the first one prints and logs.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manualbp.parity import Arm, Step
from manualbp.parity.arms.batches import Batch

# How long torchrun may take to tell the others that it has lost one of them.
NOTICE_SECONDS = 5.0


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
        """As ``share``, where the run may still be given up without a trace.

        Raises:
            KeyboardInterrupt: one of the processes was asked to stop; raised in all.
        """
        return error

    def device(self, asked: torch.device) -> torch.device:
        """This process's own device of the kind that was asked for.

        Raises:
            ValueError: there is not one for each process.
        """
        return asked

    def together(self, arm: Arm, shares: Shares) -> Arm:
        """The arm as it trains on its shares, with gradients that are the mean over all rows."""
        return arm

    def merge(self, step: Step) -> Step:
        """The step over all processes: the largest divergence and time, the mean of each metric.

        Raises:
            KeyboardInterrupt: one of them was asked to stop; raised in all, after the same step.
        """
        return step

    def ended(self) -> bool:
        """Whether an exchange has failed because another process is gone and the run is ended."""
        return False


@dataclass
class Shares:
    """One process's rows of every batch, and the weight of a mean over them.

    ``weight`` is that of the batch handed out last.
    """

    batches: Iterable[Batch]
    rank: int
    size: int
    weight: float = 1.0

    def __iter__(self) -> Iterator[Batch]:
        for x, y in self.batches:
            rows = torch.arange(len(x)).tensor_split(self.size)[self.rank]
            self.weight = self.size * len(rows) / len(x)
            start, count = (int(rows[0]), len(rows)) if len(rows) else (0, 1)
            yield x[start : start + count], y[start : start + count]

    def weighted(self, mean: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
        """A mean over this process's rows, so weighed that the mean over processes is over all."""
        return lambda output, y: self.weight * mean(output, y)


class Replica(DistributedDataParallel):
    """DistributedDataParallel under one process's names, summing each gradient by itself.

    By default gradients are summed several to a bucket, in the order in which they came in the
    first step. Autograd's come layer by layer and a chain's all at once, so they lie differently in
    a bucket, and where one lies decides in which order three or more processes add it up: both
    sums are right, but they round differently. A bucket for each tensor has no such order.
    """

    def __init__(self, module: nn.Module, process_group: dist.ProcessGroup | None) -> None:
        one_byte = 2.0**-20
        super().__init__(module, process_group=process_group, bucket_cap_mb=one_byte)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters(*args, **options)

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        return self.module.named_buffers(*args, **options)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self.module.state_dict(*args, **options)


@dataclass
class Launched(Group):
    """One of the processes that torchrun started.

    Numbers and texts are exchanged over gloo, gradients over ``data``: gloo as well, or NCCL once
    the device is known to be CUDA. SIGINT and SIGTERM are noted in ``signals`` and acted on in the
    next exchange, by all processes at once. So the second SIGINT that torchrun passes on after a
    Ctrl-C changes nothing any more.
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
        self._stop_if_any(self._gather([float(bool(self.signals))]))
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

    def together(self, arm: Arm, shares: Shares) -> Arm:
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
        names, metrics = list(step.divergence), list(step.reference.metrics)
        worst = [*step.divergence.values(), *(arm.seconds for arm in arms)]
        means = [arm.metrics[name] for arm in arms for name in metrics]
        table = self._gather([float(bool(self.signals)), *worst, *means])
        self._stop_if_any(table)
        columns = list(zip(*table, strict=True))[1:]
        largest = [max(column) for column in columns[: len(worst)]]
        mean = [sum(column) / self.size for column in columns[len(worst) :]]
        candidate, reference = (
            arm._replace(
                metrics=dict(zip(metrics, mean[i * len(metrics) :], strict=False)),
                seconds=largest[len(names) + i],
            )
            for i, arm in enumerate(arms)
        )
        divergence = dict(zip(names, largest, strict=False))
        return Step(step.number, candidate, reference, divergence)

    def ended(self) -> bool:
        deadline = time.monotonic() + NOTICE_SECONDS
        while not self.signals and time.monotonic() < deadline:
            time.sleep(0.05)
        self.whole = not self.signals
        return bool(self.signals)

    def _gather(self, row: list[float]) -> list[list[float]]:
        """The rows of all processes, in their order."""
        own = torch.tensor(row, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return [values.tolist() for values in found]

    def _stop_if_any(self, table: list[list[float]]) -> None:
        """The first column says which processes were asked to stop."""
        if any(row[0] for row in table):
            raise KeyboardInterrupt


@contextmanager
def joined() -> Iterator[Group]:
    """The group of processes this one belongs to, left in order at the end.

    All leave together: torchrun ends every process as soon as one has ended with another exit code
    than 0, and the first may still be printing. After an exception nobody is waited for.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Group()
        return
    # Imported while a group exists, this module keeps it in default arguments for ever. The threads
    # of a group that was not freed abort some processes that end, with SIGABRT instead of a code.
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
        for number in before:  # nothing is left to be done but to return the exit code
            signal.signal(number, signal.SIG_IGN)
    finally:
        dist.destroy_process_group()
