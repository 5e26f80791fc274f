"""Forward, loss and backward in one pass over tiles of rows: activations stay in the cache.

    for each tile of rows:   o = f_L(... f_1(x)),   C += C(o, y),   dC/do,   the delta recursion,
                             dC/dW += delta^T h,    dC/db += sum_n delta

The gradients are there when the loss is; ``backward`` only multiplies them by its cotangent. Memory
is that of the parameters and O(tile_rows * widths), whatever the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from manualbp.autograd.chain import by_layer, flat
from manualbp.autograd.torch_internals import alike, unhooked, unobserved
from manualbp.fast.cpu import products as gemm
from manualbp.fast.cpu.steps import PairedPass, Pass
from manualbp.fast.cpu.tiles import outputs, rowwise, slices, tile_rows
from manualbp.fast.gpu import choice, kernels, narrow
from manualbp.maths import backprop, losses
from manualbp.maths.cross_entropy import CrossEntropy, LogSoftmax
from manualbp.maths.layers import Needs, Theta, alone
from manualbp.modules.losses import loss_of, quickly
from manualbp.modules.plan import Run, directly, gather
from manualbp.modules.sequential import Sequential
from manualbp.settings import low

TILED = (torch.float32, torch.float64)  # a sum of many tiles needs their digits


class FusedLoss(nn.Module):
    """C(model(x), y) with all its first derivatives, computed tile by tile.

        fused = manualbp.FusedLoss(model, nn.CrossEntropyLoss())
        loss = fused(x, y);  loss.backward()

    Args:
        model: nn.Sequential or ours, of Linear, activations and LayerNorm.
        loss: one of our losses or its torch.nn original, with reduction "mean" or "sum".
        tile_rows: rows of a tile; by default as many as keep their activations in the cache.

    Equal to ``loss(model(x), y)`` up to rounding: sums over rows run tile by tile. Where that form
    cannot serve (other layers, training dropout, torch.compile, autocast, hooks, ...), or where
    there is too little to win, that very expression runs. Under no_grad only the loss is computed.
    Derivatives of the gradients are an error: use ``loss(model(x), y)`` for them.

    Raises:
        ValueError: tile_rows below 1.
        TypeError: model or loss is no nn.Module.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, tile_rows: int | None = None) -> None:
        super().__init__()
        for name, part in (("model", model), ("loss", loss)):
            if not isinstance(part, nn.Module):
                kind = type(part).__name__
                raise TypeError(f"{name} must be an nn.Module, got {kind}; pass a module")
        if tile_rows is not None and tile_rows < 1:
            raise ValueError(f"tile_rows must be at least 1, got {tile_rows}; None chooses it")
        self.model, self.loss, self.tile_rows = model, loss, tile_rows

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """C, a scalar."""
        if torch.compiler.is_compiling():
            return self.loss(self.model(input), target)
        paired, chosen = kernels.takes(input), self.tile_rows is None
        if chosen and not paired and gemm.small(self.model._modules.values(), input):
            return quickly(self.loss, _quickly(self.model, input), target)
        loss = loss_of(self.loss) if unhooked(self.loss) else None
        run = _chain(self.model, paired)
        if loss is None or run is None or not _serves(run, loss, input, target):
            return self.loss(self.model(input), target)
        rows = self.tile_rows or tile_rows(len(input), run.thetas, input.itemsize, input.is_cuda)
        if chosen and paired:
            net = narrow.net(run.layers, run.thetas, loss, input, target)
            if net and _in_one_launch(net, run, loss, rows, input, target):
                return _one_launch(net, run, loss, input, target)
            if gemm.small(self.model._modules.values(), input):
                return quickly(self.loss, _quickly(self.model, input), target)
        if input.dtype not in TILED:
            return self.loss(self.model(input), target)
        if not _trains(run, input):
            return one_pass(run, backprop.nothing(run.thetas), loss, rows, input, target)[0]
        return Fused.apply(run, loss, rows, target, *flat(run.layers, run.thetas), input)  # type: ignore[no-untyped-call]


def _trains(run: Run, x: Tensor) -> bool:
    parameters = flat(run.layers, run.thetas)
    wanted = any(t is not None and t.requires_grad for t in (*parameters, x))
    return torch.is_grad_enabled() and wanted


def _needs(run: Run, x: Tensor) -> list[Needs]:
    """The gradients that this call is to find."""
    if not _trains(run, x):
        return backprop.nothing(run.thetas)
    wants = [tuple([t is not None and t.requires_grad for t in theta]) for theta in run.thetas]
    return backprop.needs_of(x.requires_grad, wants)


def _in_one_launch(
    net: narrow.Net, run: Run, loss: losses.Loss, rows: int, x: Tensor, y: Tensor
) -> bool:
    """Whether one kernel for everything is faster than tiles, as far as that may be measured."""
    thetas = [tuple([None if t is None else t.detach() for t in theta]) for theta in run.thetas]
    needs = _needs(run, x)
    kind = f"step with dC/dx {net}" if needs[0].h else f"step {net}" if any(needs) else f"C {net}"
    step = choice.Step(kind, len(x), narrow.WIDEST, narrow.WIDEST, x.dtype)
    with torch.no_grad():
        return choice.chosen(step, x, {
            choice.ATEN: lambda: one_pass(run._replace(thetas=thetas), needs, loss, rows, x, y),
            choice.TRITON: lambda: narrow.launch(net, thetas, needs, x, y),
        }) == choice.TRITON  # fmt: skip


def _one_launch(net: narrow.Net, run: Run, loss: losses.Loss, x: Tensor, y: Tensor) -> Tensor:
    count = loss.count(_outputs(x, run.thetas), y) if loss.reduction == "mean" else 1
    if not _trains(run, x):
        return narrow.cost(net, run.thetas, count, x, y)
    return narrow.OneLaunch.apply(net, count, y, *flat(run.layers, run.thetas), x)  # type: ignore[no-untyped-call]


class Fused(torch.autograd.Function):
    """``Fused.apply(run, loss, rows, y, *flat(layers, thetas), x)``."""

    @staticmethod
    def forward(
        ctx: Any, run: Run, loss: losses.Loss, rows: int, y: Tensor, *tensors: Any
    ) -> Tensor:
        x, wants, chain = tensors[-1], ctx.needs_input_grad, run.layers
        needs = backprop.needs_of(wants[-1], by_layer(chain, wants[4:-1]))
        run = run._replace(thetas=by_layer(chain, tensors[:-1]))
        cost, grad_input, gradients = one_pass(run, needs, loss, rows, x, y)
        ctx.save_for_backward(*flat(chain, gradients), grad_input)
        return cost

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        narrow.first_only()
        found = ctx.saved_tensors
        if not _is_one(grad) or _kept():
            found = [None if g is None else grad * g for g in found]
        return None, None, None, None, *found


def _kept() -> bool:
    """Whether the gradients may be asked for again, so that nobody may be given our own."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or asked()


def _is_one(grad: Tensor) -> bool:
    """Whether nothing is to be multiplied, as after ``loss.backward()``; a GPU is not asked."""
    return grad.device.type == "cpu" and alone(grad) and grad.item() == 1


def one_pass(
    chain: Run, needs: Sequence[Needs], loss: losses.Loss, rows: int, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor | None, list[Theta]]:
    """C, dC/dx and every dC/dtheta, None where not wanted."""
    run = (PairedPass if chain.paired else Pass)(chain.layers, chain.thetas, needs)
    if len(x) <= rows:
        cost, grad_input = _tile(run, loss, x.new_ones(()), x, y)
        return cost, grad_input, run.gradients(x.dtype)
    summed = replace(loss, reduction="sum")
    count = loss.count(_outputs(x, chain.thetas), y) if loss.reduction == "mean" else 1
    scale = x.new_ones(()) / count
    cost = x.new_zeros((), dtype=torch.float64)  # as the sums of vectors
    grad_input = torch.empty_like(x) if needs[0].h else None
    for rows_of in slices(len(x), rows):
        part, below = _tile(run, summed, scale, x[rows_of], y[rows_of])
        cost += part
        if grad_input is not None and below is not None:
            grad_input[rows_of] = below
    return cost.to(x.dtype) / count, grad_input, run.gradients(x.dtype)


def _tile(
    run: Pass, loss: losses.Loss, scale: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor | None]:
    """C of these rows and dC/dx, and the gradients into ``run``; all of them times ``scale``."""
    o, caches = run.forward(x) if run.trains else (run.output(x), [])
    read = LogSoftmax().forward(o) if isinstance(loss, CrossEntropy) else o
    cost = loss.forward(read, y)
    if not run.trains:
        return cost, None
    delta = loss.backward(scale, read, y)
    if read is not o:
        delta = LogSoftmax().backward(delta, read)
    return cost, run.backward(delta, caches, over=True)


def _outputs(x: Tensor, thetas: Sequence[Theta]) -> Tensor:
    """Of the shape of o, without its memory."""
    return x.new_empty(()).expand(len(x), outputs(thetas))


def _is_sequential(model: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether calling the model is calling its children in order."""
    own = getattr(type(model), "forward", None) in (Sequential.forward, nn.Sequential.forward)
    return isinstance(model, nn.Sequential) and own and unhooked(model)


def _quickly(model: nn.Module, x: Tensor) -> Any:
    """o, by PyTorch's own operators where they are all that the model calls."""
    if _is_sequential(model) and not low(model):
        return directly(model._modules.values(), x)
    return model(x)


def _chain(model: nn.Module, paired: bool) -> Run | None:
    """The one chain that the model is, if it is one and its rows do not depend on each other."""
    if not _is_sequential(model):
        return None
    steps = list(gather(model, fast=True, paired=paired))
    if len(steps) != 1 or not isinstance(steps[0], Run):
        return None
    return steps[0] if rowwise(steps[0].layers) else None


def _serves(run: Run, loss: losses.Loss, x: Any, y: Any) -> bool:
    with torch.enable_grad():  # under no_grad as well: there only the loss is wanted
        plain = unobserved(x)
    if not plain or x.dim() != 2 or not isinstance(y, Tensor) or len(x) == 0 or len(y) != len(x):
        return False
    weights = [w for w in loss.tensors() if w is not None]
    if not run.fits(x) or y.requires_grad or loss.reduction == "none":
        return False
    o = _outputs(x, run.thetas)
    if any(w.dim() > 1 or w.requires_grad for w in weights) or not loss.serves(o, y):
        return False
    loss.check(o, y)
    tensors = [x, *(t for theta in run.thetas for t in theta if t is not None), *weights]
    return alike([*tensors, *([y] if y.is_floating_point() else [])]) and y.device == x.device
