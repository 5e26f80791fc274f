"""A narrow net's step in one launch on a GPU: forward, loss and backward (kernels/chain.py).

    o = f_L(... f_1(x)),   C(o, y),   and dC/dx, every dC/dW and dC/db

All widths are at most 128. The kernel sums over all errors and divides by nothing; what is left for
backward is to multiply by the cotangent over the number of errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manualbp.autograd.chain import by_layer, flat
from manualbp.fast.gpu import kernels
from manualbp.maths import backprop, losses
from manualbp.maths.cross_entropy import CrossEntropy
from manualbp.maths.layers import Elementwise, Layer, Linear, Needs, Theta
from manualbp.maths.layers.base import kept

WIDEST, DEEPEST = 128, 16


class Net(NamedTuple):
    """A chain that the kernel takes, as its arguments."""

    layers: Sequence[Layer]
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
        if type(layer) is Linear:
            fs.append(None)
        elif isinstance(layer, Elementwise) and i and type(layers[i - 1]) is Linear:
            fs[-1] = layer.activation
        else:
            return None
    widths = [x.shape[-1], *(len(kept(theta[0])) for theta in thetas if theta)]
    fits = len(fs) <= DEEPEST and all(0 < width <= WIDEST for width in widths)
    code, classes = kernels.loss_code(loss), isinstance(loss, CrossEntropy)
    if not fits or code is None or (y.dtype is torch.int64) != classes:
        return None
    from_z = [f is not None and f.needs == "z" for f in fs]
    return Net(layers, [kernels.code(f) for f in fs], from_z, code, widths)


def cost(net: Net, thetas: Sequence[Theta], count: Tensor | int, x: Tensor, y: Tensor) -> Tensor:
    """C alone, over ``count`` errors."""
    found, *_ = launch(net, thetas, backprop.nothing(thetas), x, y)
    return (found / count).to(x.dtype)


class OneLaunch(torch.autograd.Function):
    """``OneLaunch.apply(net, count, y, *flat(layers, thetas), x)``; C over ``count`` errors."""

    @staticmethod
    def forward(ctx: Any, net: Net, count: Tensor | int, y: Tensor, *tensors: Any) -> Tensor:
        x, thetas = tensors[-1], by_layer(net.layers, tensors[:-1])
        *of_thetas, of_x = ctx.needs_input_grad[3:]
        wants = by_layer(net.layers, of_thetas)
        needs = [Needs(of_x, wants[0]), *(Needs(True, want) for want in wants[1:])]
        found, *sums = launch(net, thetas, needs, x, y)
        ctx.save_for_backward(*sums)
        ctx.net, ctx.count, ctx.dtype, ctx.needs = net, count, x.dtype, needs
        ctx.shapes = [w.shape for w, *_ in filter(None, thetas)]
        return (found / count).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The sums, times the cotangent of C over the number of errors."""
        first_only()
        weights, biases, of_x = ctx.saved_tensors
        # Where no error counts, the sums are zeros.
        count = ctx.count.clamp(min=1) if isinstance(ctx.count, Tensor) else ctx.count
        scale = grad_outputs[0].float() / count  # sums of half precision would vanish by parts
        of_weights = (weights * scale).to(ctx.dtype).split([s.numel() for s in ctx.shapes])
        of_biases = (biases * scale).to(ctx.dtype).split([s[0] for s in ctx.shapes])
        each = zip(of_weights, ctx.shapes, of_biases, strict=True)
        found = iter([(w.view(shape), b) for w, shape, b in each])
        thetas = [_wanted(next(found), need.theta) if need.theta else () for need in ctx.needs]
        grad_x = (of_x * scale).to(ctx.dtype) if ctx.needs[0].h else None
        return None, None, None, *flat(ctx.net.layers, thetas), grad_x


def first_only() -> None:
    """Raise where a backward pass is recorded whose gradients were there before."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "FusedLoss has no second derivatives: expected backward without create_graph=True; "
            "use loss(model(x), y) for them"
        )


def _wanted(gradients: Theta, wants: Sequence[bool]) -> Theta:
    return tuple(g if want else None for g, want in zip(gradients, wants, strict=True))


def launch(
    net: Net, thetas: Sequence[Theta], needs: Sequence[Needs], x: Tensor, y: Tensor
) -> tuple[Tensor, ...]:
    """The sums over all errors: C, every dC/dW in one, every dC/db in one, and dC/dx."""
    names, p, q = zip(*net.codes, strict=True)
    ws, bs = zip(*filter(None, thetas), strict=True)
    want_w, want_b = zip(*(need.theta for need in needs if need.theta), strict=True)
    found: tuple[Tensor, ...] = kernels.load().narrow_step(
        x.contiguous(), y.contiguous(), [w.contiguous() for w in ws], list(bs),
        ",".join(names), p, q, net.from_z, *net.loss, needs[0].h, want_w, want_b,
    )  # fmt: skip
    return found
