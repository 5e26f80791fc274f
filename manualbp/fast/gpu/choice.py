"""ATen's routines or the Triton kernels, for every step of a layer: the faster one runs.

That depends on the GPU and the shape, so it is measured when a shape comes for the first time, on
the tensors that came: the kernel is compiled, and both run a few times. The choice then stands for
the process, since the two round differently. ``fast.policy()`` shows it. ``fast.pin`` takes another
one. Where bits must not depend on a clock (``torch.use_deterministic_algorithms``), the shape
decides. While a CUDA graph is captured nothing may be measured or compiled: ATen then runs every
new shape. ATen also runs the shapes for which the kernel failed the first time, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from manualbp.fast.cpu.routines import shortest
from manualbp.fast.gpu import kernels

ATEN, TRITON = "ATen", "Triton"
ROUTINES = (ATEN, TRITON)
# Where the shape decides: products of at most so many columns are bound by memory, so that one pass
# is faster.
NARROW = 256
TURNS, CALLS, LEAST_GAIN = 5, 3, 1.05

T = TypeVar("T")
ALL = "cuda"  # the kind that stands for all of them; the others begin with it
_pinned: dict[str, str] = {}  # by kind
_measured: dict[str, str] = {}
_runs: dict[str, bool] = {}  # whether the kernel does


def policy() -> dict[str, str]:
    """The routine of every kind that is known so far."""
    failed = {name: ATEN for name, runs in _runs.items() if not runs}
    return {**_measured, **failed, **_pinned}


def pin(routines: Mapping[str, str]) -> None:
    """Take these routines from now on, and measure the others.

    Raises:
        ValueError: an unknown routine.
    """
    for kind, routine in routines.items():
        if routine not in ROUTINES:
            raise ValueError(
                f"expected {' or '.join(ROUTINES)} for {kind!r}, got {routine!r}; "
                "policy() returns a complete choice"
            )
    _measured.clear()
    _pinned.clear()
    _pinned.update(routines)


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
        return f"cuda {self.product}, {rows} x {self.inputs} x {self.outputs}, {dtype}"


def run(step: Product, x: Tensor, runs: Mapping[str, Callable[[], T]]) -> T:
    """The result of the routine that is chosen."""
    return runs[chosen(step, x, runs)]()


def chosen(step: Product, x: Tensor, runs: Mapping[str, Callable[[], object]]) -> str:
    """The routine to take. ``runs`` has each; a call of it changes nothing.

    x is on the device where they run.
    """
    name = str(step)
    found = _pinned.get(ALL) or _pinned.get(name)
    if found is not None:
        return found
    if not x.is_cuda:
        return ATEN  # interpreted kernels are for tests alone
    by_bits = torch.are_deterministic_algorithms_enabled()
    if by_bits and max(step.inputs, step.outputs) > NARROW:
        return ATEN
    new = name not in (_runs if by_bits else _measured)
    if new and torch.cuda.is_current_stream_capturing():
        return ATEN
    if name not in _runs:
        _runs[name] = _tried(name, x, runs[TRITON])
    if not _runs[name]:
        return ATEN
    if by_bits:
        return TRITON
    if name not in _measured:
        _measured[name] = fastest(runs, lambda: torch.cuda.synchronize(x.device))
    return _measured[name]


def _tried(name: str, x: Tensor, run: Callable[[], object]) -> bool:
    """Whether the kernel runs; a GPU may have too little shared memory for it."""
    try:
        run()
        torch.cuda.synchronize(x.device)
        return True
    except Exception as error:  # compilers, assemblers and drivers have no common class
        kernels.warn(f"Triton's kernel for {name!r} failed", error)
        return False


def fastest(runs: Mapping[str, Callable[[], object]], wait: Callable[[], None]) -> str:
    """The routine with the shortest of several turns, launches included; ATen on a near tie."""
    best = shortest(runs, TURNS, CALLS, wait)
    return TRITON if best[TRITON] * LEAST_GAIN < best[ATEN] else ATEN
