"""A narrow net's step in one launch on a GPU: forward, loss and backward (kernels/chain.py).

    o = f_L(... f_1(x)),   C(o, y),   and dC/dx, every dC/dW and dC/db

All widths are at most 128. The kernel sums over all errors and divides by nothing. Backward
multiplies by the cotangent over the number of errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.segment import Segment
from manualbp.fast.gpu import choice, kernels
from manualbp.fast.one_pass import errors, first_order_only
from manualbp.maths import backprop, losses
from manualbp.maths.backprop import Step
from manualbp.maths.cross_entropy import CrossEntropy
from manualbp.maths.layers import Elementwise, Layer, Linear, Theta, read

WIDEST, DEEPEST = 128, 16


class Net(NamedTuple):
    """A chain that the kernel takes, as its arguments."""

    codes: list[tuple[str, float, float]]  # f of every Linear
    from_z: list[bool]  # whether f' of it is computed from z
    loss: tuple[str, float, int]
    widths: list[int]

    def __str__(self) -> str:
        """Its widths and functions, as in ``64-128-1 relu none mse``."""
        fs = [name for name, *_ in self.codes]
        return f"{'-'.join(map(str, self.widths))} {' '.join(fs)} {self.loss[0]}"


def net(
    layers: Sequence[Layer], thetas: Sequence[Theta], loss: losses.Loss, x: Tensor, y: Tensor
) -> Net | None:
    """The chain as the kernel takes it: Linear layers, at most one activation behind each."""
    fs: list[Any] = []
    for i, layer in enumerate(layers):
        if isinstance(layer, Linear):
            fs.append(None)
        elif isinstance(layer, Elementwise) and i and isinstance(layers[i - 1], Linear):
            fs[-1] = layer.activation
        else:
            return None
    widths = [x.shape[-1], *(len(read(theta[0])) for theta in thetas if theta)]
    fits = len(fs) <= DEEPEST and all(0 < width <= WIDEST for width in widths)
    ops, classes = kernels.load(), isinstance(loss, CrossEntropy)
    code = ops.errors.code(loss)
    if not fits or code is None or (y.dtype is torch.int64) != classes:
        return None
    from_z = [f is not None and f.needs == "z" for f in fs]
    return Net([ops.functions.code(f) for f in fs], from_z, code, widths)


class OneLaunch(torch.autograd.Function):
    """``apply_one_launch(net, segment, count, y, *segment.parameters, x)``: C over count errors."""

    @staticmethod
    def forward(
        ctx: Any, net: Net, segment: Segment, count: Tensor | int, y: Tensor, *tensors: Any
    ) -> Tensor:
        x = tensors[-1]
        steps = segment.task(ctx.needs_input_grad[4:]).steps
        found, *sums = launch(net, steps, x, y)
        ctx.save_for_backward(*sums)
        ctx.segment, ctx.steps, ctx.count, ctx.dtype = segment, steps, count, x.dtype
        return (found / count).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The sums, times the cotangent of C over the number of errors."""
        first_order_only()
        weights, biases, of_x = ctx.saved_tensors
        # Where no error counts, the sums are zeros.
        count = ctx.count.clamp(min=1) if isinstance(ctx.count, Tensor) else ctx.count
        scale = grad_outputs[0].float() / count  # in half precision it could become 0
        shapes = [read(step.theta[0]).shape for step in ctx.steps if step.theta]
        of_weights = (weights * scale).to(ctx.dtype).split([s.numel() for s in shapes])
        of_biases = (biases * scale).to(ctx.dtype).split([s[0] for s in shapes])
        each = zip(of_weights, shapes, of_biases, strict=True)
        found = iter([(w.view(shape), b) for w, shape, b in each])
        thetas = [next(found) if step.theta else () for step in ctx.steps]
        grads = [*backprop.flat(ctx.segment.layers, thetas), (of_x * scale).to(ctx.dtype)]
        wanted = zip(grads, ctx.needs_input_grad[4:], strict=True)
        return None, None, None, None, *(g if want else None for g, want in wanted)


apply_one_launch = torch_internals.applied(OneLaunch)


def launch(net: Net, steps: Sequence[Step], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The sums over all errors: C, all dC/dW in one tensor, all dC/db in one, and dC/dx."""
    names, p, q = zip(*net.codes, strict=True)
    linear = [step for step in steps if step.theta]
    ws, bs = zip(*(step.theta for step in linear), strict=True)
    want_w, want_b = zip(*(step.needs.theta for step in linear), strict=True)
    found: tuple[Tensor, ...] = kernels.load().narrow_step(
        x.contiguous(), y.contiguous(), [w.contiguous() for w in ws], list(bs),
        ",".join(names), p, q, net.from_z, *net.loss, steps[0].needs.h, want_w, want_b,
    )  # fmt: skip
    return found


def works(net: Net, steps: Sequence[Step], x: Tensor, y: Tensor) -> bool:
    """Whether the kernel runs for such a step; it has another one for each kind of gradients."""
    needs = steps[0].needs, any(step.needs for step in steps)
    kind = f"step with dC/dx {net}" if needs[0].h else f"step {net}" if needs[1] else f"C {net}"
    product = choice.Product(kind, len(x), WIDEST, WIDEST, x.dtype)
    with torch.no_grad():
        return choice.works(product, x, lambda: launch(net, steps, x, y))


def cost(
    net: Net, segment: Segment, steps: Sequence[Step], loss: losses.Loss, x: Tensor, y: Tensor
) -> Tensor:
    """C, by one launch. Its gradients are computed with it where any is wanted."""
    count = errors(loss, steps, x, y)
    if any(step.needs for step in steps):
        return apply_one_launch(net, segment, count, y, *segment.parameters, x)
    found, *_ = launch(net, steps, x, y)
    return (found / count).to(x.dtype)
