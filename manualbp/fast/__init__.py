"""Other ways to the same gradients, which round differently. This file is their only door.

    tiles.py      a chain, one tile of rows after the other
    one_pass.py   forward, loss and backward in one pass over tiles
    native/       the step in C++, where it is built: exact as one node, fast by tiles
    gpu/          products together with their activations; a narrow net in one launch; Triton

What runs is a rule of shapes, dtype, device and instruction set (docs/native.md): the same program
on the same machine has the same bits. Fast mode (settings.py) and ``FusedLoss`` use all of it.
Exact mode uses ``native/exact.py`` alone, which has autograd's bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from manualbp.autograd import torch_internals
from manualbp.autograd.recomputed import apply_recomputed
from manualbp.autograd.segment import Segment
from manualbp.autograd.stages import Stages
from manualbp.fast import native
from manualbp.fast.gpu import kernels, one_launch
from manualbp.fast.gpu.pairs import paired
from manualbp.fast.native import exact, jets, tiled
from manualbp.fast.one_pass import apply_one_pass, cost_and_gradients, outputs
from manualbp.fast.tiles import LEAST_ROWS, rows_of_tile, tiles_for
from manualbp.maths import descent
from manualbp.maths.losses import Loss
from manualbp.maths.order import Order

__all__ = ["derivatives", "descend", "exact", "fused_backward", "fused_cost", "fused_native",
           "fused_natively", "native", "native_chain", "on_gpu", "outputs", "paired", "pays",
           "run", "serve_fused"]  # fmt: skip

# A sum of many tiles needs the digits of one of these.
SUMMED = (torch.float32, torch.float64)


def on_gpu(x: Any) -> bool:
    """Whether the GPU's layers and kernels run where x is."""
    return kernels.takes(x)


def run(segment: Segment, x: Tensor, skip: Tensor | None, low: bool, gpu: bool) -> Tensor | None:
    """o, or skip + o, in fast mode's own way; None where the whole batch runs as in exact mode.

    Args:
        segment: the layers, in pairs (``paired``) where ``gpu``.
        x: (..., I).
        skip: x once more, of a residual block; or None.
        low: whether memory is to be low.
        gpu: whether ``on_gpu(x)``.
    """
    tiles = None if gpu else tiles_for(segment, x, low)
    if tiles is None:
        return None
    o: Tensor = apply_recomputed(segment, tiles, skip, *segment.parameters, x)
    return o


def pays(x: Any, tile_rows: int | None) -> bool:
    """Whether one pass over x can take less time than ``loss(model(x), y)``; asked before all else.

    Not on CPU in another dtype than float32, where the batch is one tile of Python's and that
    expression has the library's nodes; Triton's kernels take any (interpreted, also on CPU).
    """
    return (
        tile_rows is not None
        or not isinstance(x, Tensor)
        or x.dtype is torch.float32
        or not x.is_cpu
        or x.dim() != 2
        or len(x) > LEAST_ROWS
        or native.library() is None
        or on_gpu(x)
    )


def descend(parameters: Sequence[Tensor], epsilon: float | Tensor) -> None:
    """w <- w - epsilon dC/dw, as maths/descent.py has it; natively all parameters in one call."""
    if (
        torch.compiler.is_compiling()
        or (library := native.library()) is None
        or torch_internals.function_modes()
        or (isinstance(epsilon, Tensor) and epsilon.requires_grad)
        or not {Tensor, Parameter}.issuperset(map(type, parameters))
    ):
        descent.descend(parameters, epsilon)
    else:
        library.descend(parameters, float(epsilon))


def fused_native(
    segment: Segment, loss: Loss, x: Tensor, tile_rows: int | None
) -> tuple[Any, Any] | None:
    """The chain and the loss as one pass in C++ takes them; None where it does not."""
    net = tiled.net_of(segment, x, tile_rows)
    found = None if net is None else exact.loss(loss)
    return None if found is None else (net, found)


def fused_natively(native: tuple[Any, Any], x: Tensor, y: Tensor) -> Tensor:
    """C, with its gradients ready for backward."""
    found: Tensor = exact.library().fused_cost(*native, x, tiled.as_read(y))
    return found


def fused_backward(native: tuple[Any, Any], x: Tensor, y: Tensor) -> Tensor | None:
    """C, with every gradient added to ``.grad``; None where autograd has to do that."""
    if not exact.library().accumulates(native[0], x):
        return None
    found: Tensor = exact.library().fused_backward(*native, x, tiled.as_read(y))
    return found


def serve_fused(
    guard: Any, native: tuple[Any, Any], segment: Segment, loss: Loss, x: Tensor, y: Tensor
) -> None:
    """Has the guard run both ways of FusedLoss for such x and y."""
    tensors = [*segment.tensors(), *loss.weights]
    exact.library().serve_fused(guard, *native, tensors, x, y)


def native_chain(
    segment: Segment, x: Tensor, quick: bool, low: bool
) -> exact.Node | tiled.Tiled | None:
    """The segment in C++: by tiles in fast mode, else as one exact node; None for neither.

    In fast mode the tiles in Python come before the exact node.
    """
    found = tiled.chain(segment, x, low) if quick else None
    if found is not None or low or (quick and tiles_for(segment, x, low) is not None):
        return found
    return exact.chain(segment)


def derivatives(
    stages: Stages, order: Order, few_outputs: bool, directions: Tensor | None, x: Tensor
) -> tuple[Tensor, ...] | None:
    """u, du and the second derivatives in C++; None where it does not take them.

    Args:
        stages: the chain.
        order: which second derivatives.
        few_outputs: whether du comes by backpropagation (maths/input_gradient.py).
        directions: (K, I) or (N, K, I); None for the axes.
        x: (N, I).
    """
    return jets.derivatives(stages, order, few_outputs, directions, x)


def fused_cost(
    segment: Segment, loss: Loss, x: Tensor, y: Tensor, tile_rows: int | None, gpu: bool
) -> Tensor | None:
    """The same in Python or by kernels; None for a dtype that one pass does not serve.

    Args:
        segment: the model's layers, in pairs (``paired``) where ``gpu``.
        loss: C.
        x: (N, I).
        y: the target.
        tile_rows: the rows of a tile. None chooses them; on a GPU it also allows one launch.
        gpu: whether ``on_gpu(x)``.
    """
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *segment.tensors()))
    wants = tuple(trained and t is not None and t.requires_grad for t in (*segment.parameters, x))
    steps = segment.task(wants).steps
    if gpu and tile_rows is None:
        net = one_launch.net(segment.layers, segment.thetas, loss, x, y)
        if net and one_launch.works(net, steps, x, y):
            return one_launch.cost(net, segment, steps, loss, x, y)
    if x.dtype not in SUMMED:
        return None
    rows = tile_rows or rows_of_tile(len(x), segment.thetas, x.itemsize, x.is_cuda)
    if trained:
        return apply_one_pass(segment, loss, rows, y, *segment.parameters, x)
    return cost_and_gradients(steps, loss, rows, x, y)[0]
