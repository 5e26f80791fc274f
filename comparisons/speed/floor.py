"""The floor: how fast a step could be if it were its matrix products alone, at the fastest rate.

    operations = 2 N sum_l I_l O_l     z_l = h W^T
               + 2 N sum_l I_l O_l     dC/dW_l = delta^T h
               + 2 N sum_l>1 I_l O_l   dC/dh_l = delta W
    floor      = operations / rate

for N rows and layers of I_l inputs and O_l outputs. The rate is the best that any routine reached
on any product of the list below, in the same run, on the same threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from comparisons.speed.grid import Row
from comparisons.speed.steps import TRAINING
from comparisons.speed.timing import Clock, clock_of
from manualbp import routines
from manualbp.parity.options import DTYPES

# (rows, inner, columns): square, and long and narrow as in a forward pass and a weight gradient.
SHAPES = (
    (512, 512, 512),
    (1536, 1536, 1536),
    (32768, 128, 128),
    (128, 32768, 128),
)


def operations(row: Row) -> int | None:
    """Multiplications and additions of a training step's products; None for other steps."""
    if row.step != TRAINING:
        return None
    products = [i * o for i, o in zip(row.widths, row.widths[1:], strict=False)]
    return 2 * row.batch * (3 * sum(products) - products[0])


def seconds(row: Row, rates: Mapping[str, float]) -> float | None:
    """The floor of a row; None where it has none."""
    count = operations(row)
    return None if count is None else count / rates[row.dtype]


def raised(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The higher rate of each: what a moment's load took from one of them is in the other."""
    return {name: max(rate, after[name]) for name, rate in before.items()}


def rates(dtypes: Iterable[str], device: torch.device, budget: float) -> dict[str, float]:
    """Operations per second of the fastest product, by dtype; ``budget`` seconds a product."""
    clock = clock_of(device)
    return {
        name: max(rate(product, shape, budget, clock) for product, shape in _products(name, device))
        for name in dict.fromkeys(dtypes)
    }


def rate(
    product: Callable[[], Tensor],
    shape: tuple[int, int, int],
    budget: float,
    clock: Clock = time.perf_counter,
) -> float:
    """2 rows inner columns / the shortest time that the product took."""
    product()
    n, inner, m = shape
    shortest, begun = float("inf"), clock()
    while True:
        start = clock()
        product()
        end = clock()
        shortest = min(shortest, end - start)
        if end - begun >= budget:
            return 2.0 * n * inner * m / max(shortest, 1e-9)


def _products(
    name: str, device: torch.device
) -> Iterator[tuple[Callable[[], Tensor], tuple[int, int, int]]]:
    """Every shape by ATen, and by oneDNN where that is there."""
    dtype = DTYPES[name]
    for shape in SHAPES:
        n, inner, m = shape
        h = torch.randn(n, inner, dtype=dtype, device=device)
        w = torch.randn(m, inner, dtype=dtype, device=device)
        yield partial(torch.mm, h, w.t()), shape
        if routines.AVAILABLE and device.type == "cpu" and name != "float64":  # it has no float64
            yield partial(routines.ROUTINES["oneDNN"].linear, h, w, None, "none"), shape
