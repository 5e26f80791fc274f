"""z = h W^T + b and its gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from manualbp.maths.layers.base import Cache, Layer, Needs, Shape, Theta, kept, own, total


class Layout(NamedTuple):
    """What autograd's choice of a spelling depends on, as it was at forward."""

    shape: Size  # of h
    h_column_major: bool
    weight_row_major: bool


def rows(x: Tensor) -> Tensor:
    """(..., I) as (N, I)."""
    if x.dim() == 2:
        return x
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 is ambiguous for no rows


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


class Linear(Layer):
    """z = h W^T + b;  dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W.

    h (..., I), W (O, I), b (O,) or None, z and delta (..., O). Any leading shape stands for the
    batch: the products run on (N, I) and (N, O). Source: Nielsen ch. 2, BP2-BP4.
    """

    parameters = 2
    last_first = True
    by_r_operator = True

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        """Also None for a bias laid out oddly: F.linear then sums its gradient in another order."""
        weight, bias = theta
        if weight is None or weight.dim() != 2 or not shape or shape[-1] != weight.shape[1]:
            return None
        out = weight.shape[0]
        if bias is not None and (bias.shape != (out,) or not bias.is_contiguous()):
            return None
        return (*shape[:-1], out)

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        z = F.linear(h, kept(theta[0]), theta[1])
        return z if h.dim() == 2 else own(z), self.cache(h, theta, needs)

    def reads_forward(self) -> bool:
        return False

    def cache(self, h: Tensor, theta: Theta, needs: Needs) -> Cache:
        weight, flat = kept(theta[0]), rows(h)
        column_major = flat.stride() == (1, flat.shape[0])
        layout = Layout(h.shape, column_major, weight.stride() == (weight.shape[1], 1))
        read = h if needs.theta[0] else None  # b is in no derivative
        if not needs.h:
            return Cache(read, None, (None, None), (None,), layout)
        # W once more, as it is now: W.data may be another tensor's when backward comes.
        return Cache(read, None, (weight, None), (weight.detach(),), layout)

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """dC/dh = delta W,  dC/dW = delta^T h,  dC/db = sum_n delta.

        Each product has two equal spellings, P and (P^T)^T. Autograd picks by the memory layout of
        the factor whose gradient it takes, and the two round differently: so do we pick.
        """
        grad_h = grad_weight = grad_bias = None
        shape, h_column_major, weight_row_major = cache.layout
        g = rows(delta)
        if needs.theta[0]:
            h = rows(kept(cache.h))
            grad_weight = g.t().mm(h) if weight_row_major else h.t().mm(g).t()
        if needs.theta[1]:
            grad_bias = g.sum(0)
        if needs.h:
            w = kept(cache.extra[0])
            grad_h = w.t().mm(g.t()).t() if h_column_major else g.mm(w)
            grad_h = grad_h if len(shape) == 2 else grad_h.reshape(shape)
            if grad_h.dtype is not w.dtype:  # by autocast; between its nodes the engine casts back
                grad_h = grad_h.to(w.dtype)
        return grad_h, grad_weight, grad_bias

    def recorded(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """With the W that carries a graph."""
        weight, values = cache.theta[0], cache.extra[0]
        if weight is not None and values is not None and not weight.is_set_to(values):
            raise RuntimeError(
                "a weight's data was exchanged between forward and a backward with "
                "create_graph=True; run forward again"
            )
        return self.backward(delta, cache._replace(extra=(weight,)), needs)

    def formula(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        return self.backward(delta, cache._replace(extra=cache.theta[:1]), needs)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, cache: Cache, needs: Needs
    ) -> tuple[Tensor | None, Cache]:
        """z' = v W^T + h V^T + v_b for delta;  delta V for h,  delta^T v for W.

        z' is the forward tangent of z in the direction (v, V, v_b) of (h, W, b).
        """
        v_weight, v_bias = v_theta
        tangent = total(
            None if v is None else F.linear(v, kept(cache.theta[0]), v_bias),
            None if v_weight is None else F.linear(kept(cache.h), v_weight),
            None if v_bias is None or v is not None else v_bias.expand_as(delta),
        )
        for_h = for_weight = None
        if needs.h and v_weight is not None:
            for_h = torch.matmul(delta, v_weight)
        if needs.theta[0] and v is not None:
            for_weight = rows(delta).t().mm(rows(v))
        return tangent, Cache(for_h, None, (for_weight, None))
