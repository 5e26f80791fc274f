"""What is measured: steps and dtypes; tables of rows, sweeps over one number, a busy machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from manualbp.maths.activations import ActivationName
from manualbp.parity.cli import options

# PyTorch's dtypes by their names, and tf32: a GPU may round the factors of a float32 product to 10
# bits behind the point. It is a flag of the process, so every arm of a workload has it.
TF32 = "tf32"
DTYPES = {**options.DTYPES, TF32: torch.float32}
# The steps: the gradient of a cost made of u, of its first, or of its second derivatives by x.
TRAINING, INPUT_GRADIENT, LAPLACIAN = "training", "input gradient", "Laplacian"
DIRECTIONS = "directions"


@contextmanager
def product_precision(name: str) -> Iterator[None]:
    """Inside, products have the precision of this dtype: full float32, or TF32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = name == TF32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


@dataclass(frozen=True)
class Workload:
    """One step to be timed: which step, of which network, on how many rows."""

    step: str
    widths: tuple[int, ...]
    batch: int
    activation: ActivationName
    dtype: str = "float32"
    beside: int = 0  # other processes that keep a core busy each

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of every layer."""
        return list(zip(self.widths, self.widths[1:], strict=False))

    @property
    def net(self) -> str:
        """The widths in words; three or more equal hidden ones as ``64x5``."""
        hidden = self.widths[1:-1]
        if len(hidden) >= 3 and len(set(hidden)) == 1:
            return f"{self.widths[0]}-{hidden[0]}x{len(hidden)}-{self.widths[-1]}"
        return "-".join(map(str, self.widths))

    @property
    def words(self) -> str:
        """For a note."""
        return f"{self.net}, batch {self.batch:,}, {self.dtype}"


ROWS = (
    Workload(TRAINING, (64, 128, 128, 128, 1), 65536, "relu"),
    Workload(TRAINING, (2, 128, 128, 128, 128, 1), 16384, "tanh"),
    Workload(TRAINING, (32, 64, 64, 64, 64, 3), 131072, "relu"),
    Workload(TRAINING, (128, 512, 512, 10), 8192, "relu"),
    Workload(TRAINING, (784, 1024, 1024, 10), 512, "relu"),
    Workload(TRAINING, (784, 1024, 1024, 10), 4096, "relu"),
    Workload(TRAINING, (784, 256, 128, 10), 128, "relu"),
    Workload(TRAINING, (64, 64, 64, 1), 256, "relu"),
    Workload(TRAINING, (32, 32, 32, 1), 32, "tanh"),
)
WIDE = 512  # features of a layer from which on products are nearly all of a step
SECOND_ORDER = (
    Workload(INPUT_GRADIENT, (3, 256, 256, 256, 1), 8192, "softplus"),
    Workload(INPUT_GRADIENT, (2, 64, 64, 64, 1), 1024, "tanh"),
    Workload(INPUT_GRADIENT, (2, 32, 32, 32, 1), 128, "tanh"),
    Workload(LAPLACIAN, (2, 128, 128, 128, 128, 1), 4096, "tanh"),
    Workload(LAPLACIAN, (2, 64, 64, 64, 1), 1024, "silu"),
    Workload(LAPLACIAN, (2, 32, 32, 32, 1), 128, "tanh"),
)
# Derivatives by the input: the first four are the main ones.
DERIVATIVES = (
    Workload(LAPLACIAN, (2, 128, 128, 128, 128, 1), 4096, "tanh"),
    Workload(LAPLACIAN, (2, 64, 64, 64, 1), 1024, "tanh"),
    Workload(LAPLACIAN, (2, 32, 32, 32, 1), 128, "tanh"),
    Workload(LAPLACIAN, (3, 256, 256, 256, 1), 4096, "tanh"),
    Workload(LAPLACIAN, (2, 128, 128, 128, 128, 1), 4096, "silu"),
    Workload(LAPLACIAN, (2, 64, 64, 64, 1), 1024, "softplus"),
    Workload(LAPLACIAN, (2, 64, 64, 64, 1), 1024, "gelu"),
    Workload(LAPLACIAN, (3, 50, 50, 1), 3000, "tanh"),
    Workload(LAPLACIAN, (1, 64, 64, 64, 1), 1024, "tanh"),
    Workload(LAPLACIAN, (2, 64, 64, 64, 5), 1024, "tanh"),
    Workload(INPUT_GRADIENT, (3, 256, 256, 256, 1), 8192, "softplus"),
    Workload(INPUT_GRADIENT, (2, 64, 64, 64, 1), 1024, "tanh"),
    Workload(INPUT_GRADIENT, (2, 32, 32, 32, 1), 128, "tanh"),
    Workload(INPUT_GRADIENT, (3, 50, 50, 5), 3000, "silu"),
    Workload(DIRECTIONS, (100, 128, 128, 128, 1), 1024, "tanh"),
)
BATCHES = tuple(16 * 4**n for n in range(8))  # 16 ... 262,144
BATCH = tuple(
    Workload(TRAINING, (64, width, width, 1), batch, "relu")
    for width in (32, 64, 128, 512)
    for batch in BATCHES
)
DEPTH = tuple(Workload(TRAINING, (64, *[64] * 2**n, 1), 4096, "relu") for n in range(6))
WIDTH = tuple(Workload(TRAINING, (64, 2**n, 2**n, 1), 512, "relu") for n in range(3, 13))
BY_DTYPE = {
    dtype: tuple(replace(ROWS[number], dtype=dtype) for number in (1, 4, 7))
    for dtype in ("bfloat16", "float64", "float16")
}
LONG = tuple(replace(ROWS[0], batch=65536 * 4**n) for n in range(3))
TINY = tuple(row for row in ROWS if row.batch * sum(row.widths) < 2**18)
CORES = os.cpu_count() or 1
TABLE = ("rows", "second-order")  # the parts with a table of rows
DERIVATIVES_PART = "derivatives"  # it has tables of its own
SWEPT = ("batch", "depth", "width", "dtype", "gpu")
PARTS: dict[str, tuple[Workload, ...]] = {
    "rows": ROWS,
    "second-order": SECOND_ORDER,
    DERIVATIVES_PART: DERIVATIVES,
    "batch": BATCH,
    "depth": DEPTH,
    "width": WIDTH,
    "dtype": (*BY_DTYPE["bfloat16"], *BY_DTYPE["float64"]),
}
# More parts on a GPU, or other ones in their place: half precision, TF32, batches that fill a GPU,
# and networks that leave it idle.
ON_GPU: dict[str, tuple[Workload, ...]] = {
    "dtype": (*sum(BY_DTYPE.values(), ()), *(replace(row, dtype=TF32) for row in ROWS)),
    "gpu": (*LONG, *TINY),
}
# The most that an eager step of a sweep may take: seconds (also with --quick), bytes of tensors.
LONGEST, LONGEST_QUICK, LARGEST = 0.6, 0.03, 6e9
# Only where it is asked for: a step beside one and beside several other busy processes.
BUSY_PART = "busy"
ON_REQUEST: dict[str, tuple[Workload, ...]] = {
    BUSY_PART: tuple(
        replace(row, beside=count) for row in (ROWS[3], ROWS[0]) for count in (0, 1, 2 * CORES)
    )
}
# How many arms hold a step's memory at the same time on a GPU: every graph has its own.
HOLDING = 5


def selected(
    parts: Iterable[str] | None = None,
    step: str | None = None,
    quick: bool = False,
    gpu: bool = False,
) -> list[tuple[str, Workload]]:
    """Part and workload of all that is asked for; quick takes every second one of a sweep."""
    usual = PARTS | ON_GPU if gpu else PARTS
    return [
        (part, workload)
        for part, all_of_it in (usual | ON_REQUEST).items()
        for workload in (all_of_it[::2] if quick and part in SWEPT else all_of_it)
        if part in (parts or usual) and step in (None, workload.step)
    ]


def coordinate(part: str, workload: Workload) -> int:
    """Where a workload stands on the axis of its sweep."""
    return {"depth": len(workload.widths) - 2, "width": workload.widths[1]}.get(
        part, workload.batch
    )


def largest(device: torch.device) -> float:
    """Bytes that the tensors of a step may take there: a GPU's memory over ``HOLDING``."""
    if device.type != "cuda":
        return LARGEST
    return float(torch.cuda.get_device_properties(device).total_memory / HOLDING)


def too_large(
    part: str, workload: Workload, floor: float | None, quick: bool = False, most: float = LARGEST
) -> str | None:
    """Why a workload of a sweep is left out; None where it is not. Nothing of it is made for that.

    A long eager step takes about twice its floor, and three tensors per layer.
    """
    if part not in SWEPT or floor is None:
        return None
    seconds = 2 * floor
    itemsize = 8 if workload.dtype == "float64" else 4
    size = 3 * workload.batch * sum(workload.widths) * itemsize
    if seconds > (LONGEST_QUICK if quick else LONGEST):
        return f"{workload.words}: a step would take about {seconds:.2g} s"
    if size > most:
        return f"{workload.words}: a step would take about {size / 1e9:.1f} GB"
    return None
