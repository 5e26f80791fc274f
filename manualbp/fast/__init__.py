"""Faster ways to the same gradients, which round differently. This file is their only door.

    pinning.py    which routine computes what, as measured or pinned
    small.py      chains that PyTorch's own operators run faster
    tiles.py      a chain, one tile of rows after the other
    one_pass.py   forward, loss and backward in one pass over tiles
    cpu/          the products of a Linear by ATen or oneDNN, with the activation next to it
    native/       the same in C++: a chain or a loss as one node, and the questions before a call
    gpu/          products together with their activations; a narrow net in one launch; Triton

Fast mode (settings.py) and ``FusedLoss`` use it. Exact mode does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd.segment import Segment
from manualbp.fast.cpu.layers import joined
from manualbp.fast.gpu import kernels, one_launch
from manualbp.fast.gpu.pairs import paired
from manualbp.fast.native import exact
from manualbp.fast.one_pass import apply_one_pass, cost_and_gradients, outputs
from manualbp.fast.pinning import pin, policy
from manualbp.fast.small import is_small
from manualbp.fast.tiles import rows_of_tile, tiles_for
from manualbp.maths.layers import Layer, Theta
from manualbp.maths.losses import Loss

__all__ = [
    "chain",
    "exact",
    "fused_cost",
    "is_small",
    "on_gpu",
    "outputs",
    "pin",
    "policy",
    "tiles_for",
]


def on_gpu(x: Any) -> bool:
    """Whether the GPU's layers and kernels run where x is."""
    return kernels.takes(x)


def chain(
    layers: Sequence[Layer], thetas: Sequence[Theta], gpu: bool
) -> tuple[Sequence[Layer], Sequence[Theta]]:
    """The same chain of fast layers."""
    return (paired(layers, thetas), thetas) if gpu else joined(layers, thetas)


def fused_cost(
    segment: Segment, loss: Loss, x: Tensor, y: Tensor, tile_rows: int | None, gpu: bool,
    small: bool,
) -> Tensor | None:  # fmt: skip
    """C, with its gradients ready for backward; None where PyTorch's own operators should run.

    Args:
        segment: the model's layers, as ``chain`` returns them.
        loss: C.
        x: (N, I).
        y: the target.
        tile_rows: the rows of a tile. None chooses them; on a GPU it also allows one launch.
        gpu: whether ``on_gpu(x)``.
        small: whether the model is too small to gain by tiles.
    """
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *segment.tensors()))
    wants = tuple(trained and t is not None and t.requires_grad for t in (*segment.parameters, x))
    steps = segment.task(wants).steps
    rows = tile_rows or rows_of_tile(len(x), segment.thetas, x.itemsize, x.is_cuda)
    if gpu and tile_rows is None:
        net = one_launch.net(segment.layers, segment.thetas, loss, x, y)
        if net and one_launch.is_faster(net, steps, loss, rows, x, y):
            return one_launch.cost(net, segment, steps, loss, x, y)
    if small or x.dtype not in (torch.float32, torch.float64):
        return None  # a sum of many tiles needs the digits of float32 or float64
    if trained:
        return apply_one_pass(segment, loss, rows, y, *segment.parameters, x)
    return cost_and_gradients(steps, loss, rows, x, y)[0]
