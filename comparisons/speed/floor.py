"""The floors: how fast a step could be if it were its matrix products alone, or its bytes alone.

    operations = 2 N sum_l I_l O_l     z_l = h W^T
               + 2 N sum_l I_l O_l     dC/dW_l = delta^T h
               + 2 N sum_l>1 I_l O_l   dC/dh_l = delta W
    bytes      = B N (I_1 + O_L)       x and y are read
               + B sum_l O_l (I_l + 1)     W and b are read
               + B sum_l O_l (I_l + 1)     dC/dW and dC/db are written
    products   = operations / rate     bytes = bytes / bandwidth     floor = the larger of both

in seconds, for N rows, layers of I_l inputs and O_l outputs, and numbers of B bytes. A step that
keeps every activation on the chip moves these bytes. The rate is the best that PyTorch reached on
any product of ``SHAPES``. The bandwidth is that of a copy too large for any cache, its bytes read
and written. Both are measured in the same run, on the same threads. What a cache still holds of the
step before comes faster than the bandwidth says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from comparisons.speed.timing import Clock, clock_of
from comparisons.speed.workloads import DTYPES, TRAINING, Workload, product_precision

PRODUCTS, BYTES = "products", "bytes"
# (rows, inner, columns): square, and long and narrow as in a forward pass and a weight gradient.
# Only larger ones keep a GPU busy.
SHAPES = (
    (512, 512, 512),
    (1536, 1536, 1536),
    (32768, 128, 128),
    (128, 32768, 128),
)
SHAPES_GPU = (*SHAPES, (4096, 4096, 4096), (1048576, 128, 128))
# Bytes of the tensor that is copied, and calls between two readings of the clock. A GPU waits for
# the first launch alone: it works on each call while Python launches the next.
COPIED, COPIED_GPU = 2**28, 2**30
CALLS, CALLS_GPU = 1, 8


class Rates(NamedTuple):
    """What was reached: operations per second by dtype, and bytes per second."""

    operations: Mapping[str, float]
    bytes: float

    def raised(self, after: Rates) -> Rates:
        """The higher of each: a moment's load on the machine lowers only one of the two."""
        both = {name: max(rate, after.operations[name]) for name, rate in self.operations.items()}
        return Rates(both, max(self.bytes, after.bytes))


def operations(workload: Workload) -> int:
    """Multiplications and additions of a training step's products."""
    products = [i * o for i, o in workload.layers]
    return 2 * workload.batch * (3 * sum(products) - products[0])


def bytes_moved(workload: Workload) -> int:
    """Bytes that a training step reads and writes at least."""
    parameters = sum(o * (i + 1) for i, o in workload.layers)
    data = workload.batch * (workload.widths[0] + workload.widths[-1])
    return DTYPES[workload.dtype].itemsize * (data + 2 * parameters)


def floors(workload: Workload, rates: Rates) -> dict[str, float]:
    """Seconds of the products and of the bytes; empty where the step has no floor."""
    if workload.step != TRAINING:
        return {}
    return {
        PRODUCTS: operations(workload) / rates.operations[workload.dtype],
        BYTES: bytes_moved(workload) / rates.bytes,
    }


def measured_rates(names: Iterable[str], device: torch.device, budget: float) -> Rates:
    """The fastest product of every dtype and the copy; ``budget`` seconds each."""
    clock = clock_of(device)
    calls, copied = (CALLS_GPU, COPIED_GPU) if device.type == "cuda" else (CALLS, COPIED)
    found = {}
    for name in dict.fromkeys(names):
        with product_precision(name):
            found[name] = max(
                best_rate(product, count, budget, clock, calls)
                for product, count in _products(name, device)
            )
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    copy = partial(torch.empty_like(source).copy_, source)
    return Rates(found, best_rate(copy, 2 * copied, budget, clock, calls))


def best_rate(
    call: Callable[[], Tensor],
    work: int,
    budget: float,
    clock: Clock = time.perf_counter,
    calls: int = 1,
) -> float:
    """calls * work / the shortest time between two readings of the clock, ``calls`` apart."""
    call()
    shortest, begun = float("inf"), clock()
    while True:
        start = clock()
        for _ in range(calls):
            call()
        end = clock()
        shortest = min(shortest, end - start)
        if end - begun >= budget:
            return float(calls * work / max(shortest, 1e-9))


def _products(name: str, device: torch.device) -> Iterator[tuple[Callable[[], Tensor], int]]:
    """A product of every shape by ATen, and by oneDNN where it is there; and its operations."""
    dtype = DTYPES[name]
    # ATen's own product of bfloat16 is oneDNN's, and of float64 oneDNN has none.
    onednn = device.type == "cpu" and name == "float32" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    for n, inner, m in SHAPES_GPU if device.type == "cuda" else SHAPES:
        h = torch.randn(n, inner, dtype=dtype, device=device)
        w = torch.randn(m, inner, dtype=dtype, device=device)
        yield partial(torch.mm, h, w.t()), 2 * n * inner * m
        if onednn:
            yield partial(nn.functional.linear, h.to_mkldnn(), w.to_mkldnn()), 2 * n * inner * m
