"""Data-parallel training: each process takes its share of the rows of every batch.

Batch of N rows, W processes, n_r rows in process r; the n_r differ by at most one:

    dC/dw = 1/N sum_n dC_n/dw = 1/W sum_r (W n_r / N) dC_r/dw        C_r the mean over its n_r rows

DistributedDataParallel takes 1/W sum_r, so each process multiplies its C_r by W n_r / N, which is 1
where the rows divide evenly. A process left without a row works on one with weight 0, so that it
takes part in every exchange. No row is dropped, none counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manualbp.parity.arms.batches import Batch


@dataclass
class Shares:
    """One process's rows of every batch. ``weight``: W n_r / N of the batch handed out last."""

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
        """A mean over this process's rows times ``weight``: its mean over processes is over all."""
        return lambda output, y: self.weight * mean(output, y)


class Replica(DistributedDataParallel):
    """DistributedDataParallel with the names of the module itself; sums each gradient by itself.

    By default DistributedDataParallel puts several gradients into one bucket, in the order in which
    they came in the first step. Autograd's come layer by layer, a chain's all at once, so the two
    arms fill their buckets differently. A gradient's place in its bucket decides in which order
    three or more processes add it up: both sums are right, but they round differently. With a
    bucket for each tensor there is no such order.
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
