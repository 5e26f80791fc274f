"""z = h W^T + b and its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.layers.base import (
    By,
    Grads,
    Kept,
    Layer,
    Needs,
    Shape,
    Tape,
    Theta,
    read,
    total,
)


@dataclass(frozen=True)
class Linear(Layer):
    """z = h W^T + b;  dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W.

    h (..., I), W (O, I), b (O,) or None, z and delta (..., O). Any leading shape stands for the
    batch: the products run on (N, I) and (N, O). Source: Nielsen ch. 2, BP2-BP4.

    Each gradient can be written as a product P or as (P^T)^T. Both are equal, but round
    differently. Autograd gives a gradient the memory layout of its factor, and so does this layer:

        dC/dh   delta W      or, where h is ``h_column_major``,   (W^T delta^T)^T
        dC/dW   delta^T h    or, where W is ``w_column_major``,   (h^T delta)^T
    """

    h_column_major: bool = False
    w_column_major: bool = False

    parameters = 2
    last_first = True
    keeps = 2
    by_r_operator = True

    def by_rows(self) -> bool:
        return True

    def h_at(self) -> int | None:
        return 0

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        """Also None for a strided bias: F.linear then sums its gradient in another order."""
        weight, bias = theta
        if weight is None or weight.dim() != 2 or not shape or shape[-1] != weight.shape[1]:
            return None
        out = weight.shape[0]
        if bias is not None and (bias.shape != (out,) or not bias.is_contiguous()):
            return None
        return (*shape[:-1], out)

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        weight, bias = theta
        z = F.linear(h, weight, bias)  # type: ignore[arg-type]
        tape += self.keep(h, theta, needs)
        return z if z.dim() == 2 else own(z)

    def reads_forward(self) -> bool:
        return False

    def keep(self, h: Tensor, theta: Theta, needs: Needs) -> Kept:
        """h for dC/dW, W for dC/dh; b is in no derivative."""
        wants_h, (wants_weight, _) = needs
        weight = None
        if wants_h:  # W as it is now: W.data may be another tensor's when backward comes
            weight = theta[0] if torch.is_grad_enabled() else read(theta[0]).detach()
        return h if wants_weight else None, weight

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        weight, h = tape.pop(), tape.pop()
        wants_h, (wants_weight, wants_bias) = needs
        matrices = delta.dim() == 2  # else (..., O): flattened to (N, O)
        g = delta if matrices else rows(delta)
        grads.append(g.sum(0) if wants_bias else None)
        if wants_weight:
            h = h if matrices and h is not None else rows(read(h))
            grads.append(product(h, g).t() if self.w_column_major else product(g, h))
        else:
            grads.append(None)
        if not wants_h:
            return None
        weight = weight if weight is not None else read(weight)
        grad_h = weight.t().mm(g.t()).t() if self.h_column_major else g.mm(weight)
        as_h = matrices and grad_h.dtype is weight.dtype
        return grad_h if as_h else like_input(grad_h, delta, weight)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, kept: Kept, needs: Needs
    ) -> tuple[Tensor | None, Kept]:
        """z' = v W^T + h V^T + v_b for delta;  delta V for h,  delta^T v for W.

        z' is the forward tangent of z in the direction (v, V, v_b) of (h, W, b).
        """
        h, weight = kept
        v_weight, v_bias = v_theta
        tangent = total(
            None if v is None else F.linear(v, read(weight), v_bias),
            None if v_weight is None else F.linear(read(h), v_weight),
            None if v_bias is None or v is not None else v_bias.expand_as(delta),
        )
        for_h = for_weight = None
        if needs.h and v_weight is not None:
            for_h = torch.matmul(delta, v_weight)
        if needs.theta[0] and v is not None:
            for_weight = product(rows(delta), rows(v))
        return tangent, (for_h, for_weight)


def product(g: Tensor, h: Tensor, more: Tensor | None = None) -> Tensor:
    """more + g^T h."""
    return g.t().mm(h) if more is None else torch.addmm(more, g.t(), h)


def rows(x: Tensor) -> Tensor:
    """(..., I) as (N, I)."""
    if x.dim() == 2:
        return x
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 is ambiguous for no rows


def like_input(grad_h: Tensor, delta: Tensor, weight: Tensor) -> Tensor:
    """dC/dh (N, I) in the shape of h (..., I), and in W's dtype where autocast took another."""
    if delta.dim() != 2:
        grad_h = grad_h.reshape(*delta.shape[:-1], weight.shape[1])
    return grad_h.to(weight.dtype)


def row_major(x: Tensor) -> bool:
    """Whether the strides are those of a fresh tensor, also where a dimension has size 1.

    For others F.linear may choose batched products, which round differently.
    """
    if x.dim() == 2:
        return x.stride() == (max(x.shape[1], 1), 1)
    stride = 1
    for size, found in zip(reversed(x.shape), reversed(x.stride()), strict=True):
        if found != stride:
            return False
        stride *= max(size, 1)
    return True


def column_major(x: Tensor) -> bool:
    """Whether the strides of x (R, C) are those of a fresh (C, R), transposed."""
    return x.stride() == (1, x.shape[0])


def own(tensor: Tensor) -> Tensor:
    """The tensor as no view: a view that leaves a Function cannot be edited in place."""
    return tensor if tensor.requires_grad else tensor.new_empty(0).set_(tensor)  # type: ignore[call-overload]
