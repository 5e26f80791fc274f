"""How kernels are launched: where, with which blocks, at which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from manualbp.fast.gpu.kernels import tf32
from manualbp.fast.gpu.kernels.tiles import INTERPRETED

LEAST = 16  # rows, columns and terms of the smallest product that tensor cores compute


def power_of_2(size: int) -> int:
    """The size of the block that holds ``size``."""
    return max(LEAST, triton.next_power_of_2(size))


def on(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which kernels are launched on x's device."""
    if x.is_cuda:
        return torch.cuda.device(x.device)
    if INTERPRETED.value:
        return nullcontext()
    raise ValueError(
        f"Triton's kernels take CUDA tensors, got {x.device}; move them, or set TRITON_INTERPRET=1 "
        "before manualbp.fast.gpu.kernels is imported, to have them interpreted"
    )


def precision(x: Tensor) -> str:
    """How factors of float32 are multiplied, as PyTorch's own flags say."""
    return "tf32" if x.dtype is torch.float32 and tf32() else "ieee"
