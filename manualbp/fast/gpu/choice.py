"""Which steps Triton's kernels run, and which ATen's routines: a rule of shape and dtype.

    a product with the activation next to it    a kernel where ``prefers_kernel``, else ATen
    a narrow net's whole step, of FusedLoss     one launch where ``one_launch.net`` finds a Net

No clock is read, so the same program on the same machine has the same bits. The limits of the rule
are not yet measured on a GPU. ATen also runs what the kernels cannot: every product of a shape for
which the kernel failed when it came for the first time, with one warning; and while a CUDA graph is
captured every shape that is new, since nothing may be compiled then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from manualbp.fast.gpu import kernels

# Not yet measured. A product of at most NARROW columns is bound by memory, so that one pass over it
# is faster than two; one of fewer rows than LEAST_ROWS takes less time than a kernel's launch.
NARROW, LEAST_ROWS = 256, 2**12

T = TypeVar("T")
_works: dict[str, bool] = {}  # by the name of a product: whether its kernel ran


class Product(NamedTuple):
    """A product of N rows with W (O, I), and the activation next to it."""

    product: str
    rows: int
    outputs: int
    inputs: int
    dtype: torch.dtype

    def __str__(self) -> str:
        """In words, with the rows rounded up to a power of 2."""
        rows = 1 << max(self.rows - 1, 0).bit_length()
        single = self.dtype is torch.float32
        dtype = "tf32" if single and kernels.tf32() else str(self.dtype).removeprefix("torch.")
        return f"{self.product}, {rows} x {self.inputs} x {self.outputs}, {dtype}"


def prefers_kernel(step: Product) -> bool:
    """The rule: narrow, with many rows, in a dtype that the kernels take."""
    narrow = max(step.inputs, step.outputs) <= NARROW
    return narrow and step.rows >= LEAST_ROWS and step.dtype in kernels.DTYPES


def run(step: Product, x: Tensor, by_aten: Callable[[], T], by_kernel: Callable[[], T]) -> T:
    """The result, by the kernel where the rule says so and the kernel works; else by ATen.

    x is on the device where they run. A call of either changes nothing.
    """
    chosen = kernels.takes(x) and prefers_kernel(step) and works(step, x, by_kernel)
    return by_kernel() if chosen else by_aten()


def works(step: Product, x: Tensor, by_kernel: Callable[[], object]) -> bool:
    """Whether the kernel runs, as tried where such a step comes for the first time."""
    if not x.is_cuda:
        return True  # it is interpreted, for tests, which are to see its errors
    name = str(step)
    if name not in _works:
        if torch.cuda.is_current_stream_capturing():
            return False
        _works[name] = _tried(name, x, by_kernel)
    return _works[name]


def _tried(name: str, x: Tensor, by_kernel: Callable[[], object]) -> bool:
    """Whether the kernel runs; a GPU may have too little shared memory for it."""
    try:
        by_kernel()
        torch.cuda.synchronize(x.device)
        return True
    except Exception as error:  # compilers, assemblers and drivers have no common class
        kernels.warn(f"Triton's kernel for {name!r} failed", error)
        return False
