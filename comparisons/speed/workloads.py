"""What is measured: the rows of the table, and sweeps over one number with the others held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from comparisons.speed.costs import INPUT_GRADIENT, LAPLACIAN, TRAINING
from comparisons.speed.dtypes import TF32


@dataclass(frozen=True)
class Row:
    """One step to be timed."""

    step: str
    widths: tuple[int, ...]
    batch: int
    activation: str
    dtype: str = "float32"

    @property
    def net(self) -> str:
        """The widths, in words: a run of equal ones is written once, with its length."""
        hidden = self.widths[1:-1]
        if len(hidden) > 3 and len(set(hidden)) == 1:
            return f"{self.widths[0]}-{hidden[0]}x{len(hidden)}-{self.widths[-1]}"
        return "-".join(map(str, self.widths))

    @property
    def words(self) -> str:
        """For a note."""
        return f"{self.net}, batch {self.batch:,}, {self.dtype}"


ROWS = (
    Row(TRAINING, (64, 128, 128, 128, 1), 65536, "relu"),
    Row(TRAINING, (2, 128, 128, 128, 128, 1), 16384, "tanh"),
    Row(TRAINING, (32, 64, 64, 64, 64, 3), 131072, "relu"),
    Row(TRAINING, (128, 512, 512, 10), 8192, "relu"),
    Row(TRAINING, (784, 1024, 1024, 10), 512, "relu"),
    Row(TRAINING, (784, 1024, 1024, 10), 4096, "relu"),
    Row(TRAINING, (784, 256, 128, 10), 128, "relu"),
    Row(TRAINING, (64, 64, 64, 1), 256, "relu"),
    Row(TRAINING, (32, 32, 32, 1), 32, "tanh"),
)
SECOND_ORDER = (
    Row(INPUT_GRADIENT, (3, 256, 256, 256, 1), 8192, "softplus"),
    Row(INPUT_GRADIENT, (2, 64, 64, 64, 1), 1024, "tanh"),
    Row(INPUT_GRADIENT, (2, 32, 32, 32, 1), 128, "tanh"),
    Row(LAPLACIAN, (2, 128, 128, 128, 128, 1), 4096, "tanh"),
    Row(LAPLACIAN, (2, 64, 64, 64, 1), 1024, "silu"),
    Row(LAPLACIAN, (2, 32, 32, 32, 1), 128, "tanh"),
)
BATCHES = tuple(16 * 4**n for n in range(8))  # 16 ... 262,144
BATCH = tuple(
    Row(TRAINING, (64, width, width, 1), batch, "relu")
    for width in (32, 64, 128, 512)
    for batch in BATCHES
)
DEPTH = tuple(Row(TRAINING, (64, *[64] * 2**n, 1), 4096, "relu") for n in range(6))
WIDTH = tuple(Row(TRAINING, (64, 2**n, 2**n, 1), 512, "relu") for n in range(3, 13))
BY_DTYPE = {
    dtype: tuple(replace(ROWS[number], dtype=dtype) for number in (1, 4, 7))
    for dtype in ("bfloat16", "float64", "float16")
}
LONG = tuple(replace(ROWS[0], batch=65536 * 4**n) for n in range(3))
TINY = tuple(row for row in ROWS if row.batch * sum(row.widths) < 2**18)
TABLE = ("rows", "second-order")  # the parts with a table of their own columns; the others: sweeps
PARTS: dict[str, tuple[Row, ...]] = {
    "rows": ROWS,
    "second-order": SECOND_ORDER,
    "batch": BATCH,
    "depth": DEPTH,
    "width": WIDTH,
    "dtype": (*BY_DTYPE["bfloat16"], *BY_DTYPE["float64"]),
}
# What a GPU has beside that, or in its place: half the bytes, TF32, batches that fill it, and
# networks that leave it idle.
ON_GPU: dict[str, tuple[Row, ...]] = {
    "dtype": (*sum(BY_DTYPE.values(), ()), *(replace(row, dtype=TF32) for row in ROWS)),
    "gpu": (*LONG, *TINY),
}
# What an eager step of a sweep may take, and its tensors: seconds (with --quick) and bytes.
LONGEST, LONGEST_QUICK, LARGEST = 0.6, 0.03, 6e9
# How many arms keep a step's memory at once on a GPU: every graph has its own.
HOLDING = 5


def cells(
    parts: Iterable[str] | None = None,
    step: str | None = None,
    quick: bool = False,
    gpu: bool = False,
) -> list[tuple[str, Row]]:
    """Part and row of everything that is asked for; quick takes every second cell of a sweep."""
    every = PARTS | ON_GPU if gpu else PARTS
    return [
        (part, row)
        for part, rows in every.items()
        for row in (rows[::2] if quick and part not in TABLE else rows)
        if part in (parts or every) and step in (None, row.step)
    ]


def coordinate(part: str, row: Row) -> int:
    """Where a row stands on its sweep's axis."""
    return {"depth": len(row.widths) - 2, "width": row.widths[1]}.get(part, row.batch)


def largest(device: torch.device) -> float:
    """Bytes that the tensors of a step may take there: a GPU's memory over ``HOLDING``."""
    if device.type != "cuda":
        return LARGEST
    return float(torch.cuda.get_device_properties(device).total_memory / HOLDING)


def too_large(
    part: str, row: Row, floor: float | None, quick: bool = False, most: float = LARGEST
) -> str | None:
    """Why a cell of a sweep is left out, judged before anything of it is made; None if it is not.

    An eager step takes about twice its floor where it is long, and three tensors per layer.
    """
    if part in TABLE or floor is None:
        return None
    seconds = 2 * floor
    size = 3 * row.batch * sum(row.widths) * (8 if row.dtype == "float64" else 4)
    if seconds > (LONGEST_QUICK if quick else LONGEST):
        return f"{row.words}: a step would take about {seconds:.2g} s"
    if size > most:
        return f"{row.words}: a step would take about {size / 1e9:.1f} GB"
    return None
