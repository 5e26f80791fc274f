"""Which chains are so small that PyTorch's own operators are faster than a step by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.fast.cpu.routines import MOST_GAIN, known, shape_of

# With fewer multiplications in a forward pass PyTorch's own step is faster: the Python of a step by
# hand takes longer than what it saves. With ATen's routines.
LEAST_WORK = 2**27
LEAST_WORK_CUDA = 2**30  # a GPU computes while Python goes on; not yet measured
COSTLY = (nn.Tanh, nn.GELU)  # activations that take less time in fast mode
WORTH = 128  # each of their outputs counts as so many multiplications
THIN = 48  # layers with a narrower side than this gain nothing by other routines


def is_small(modules: Iterable[nn.Module | None], x: Any) -> bool:
    """Whether PyTorch's own forward and backward take less time than Python's steps by hand."""
    # A compiler would compile again when the answer changes.
    if type(x) is not Tensor or x.dim() == 0 or torch.compiler.is_compiling():
        return False
    rows, by_onednn = x.numel() // max(x.shape[-1], 1), x.is_cpu and x.dtype is torch.float32
    least = LEAST_WORK_CUDA if x.is_cuda else LEAST_WORK
    layers: list[tuple[str | None, int]] = []
    costly = outputs = 0
    for module in modules:
        if type(module) is nn.Linear:
            inputs, outputs = module.in_features, module.out_features
            gains = by_onednn and min(inputs, outputs) >= THIN
            layers.append((shape_of(inputs, outputs) if gains else None, rows * inputs * outputs))
        elif type(module) in COSTLY:
            costly += rows * WORTH * outputs
    if costly + MOST_GAIN * sum(work for _, work in layers) < least:
        return True  # whatever the policy says, so it need not be measured
    worth = (work * known()[f"gain, {shape}"] if shape else work for shape, work in layers)
    return costly + sum(worth) < least
