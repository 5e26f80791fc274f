"""A chain and its derivatives by the input in one pass up; their gradients in one pass down.

    up     h_0 = x,  h'_k = v_k,  h'' = 0         x + t v_k is the k-th line through x
           z = h W^T + b          z'_k = h'_k W^T        z'' = h'' W^T
           a = f(z)               a'_k = f' z'_k         a'' = f' z'' + f'' q

    down   from dC/da, dC/da'_k, dC/da'':
           dC/dz'' = f' g''       dC/dz'_k = f' g'_k + f'' g'' dq/dz'_k
           dC/dz   = f' g + f'' (sum_k g'_k z'_k + g'' z'') + f''' g'' q
           dC/dW   = g^T h + sum_k g'_k^T h'_k + g''^T h''       dC/db = sum_n g

' is d/dt along the k-th line, and z''_p is along a pair of lines k and m (order.py). q is what z'
brings in:

    q_p = z'_k z'_m        q = sum_k z'_k^2  for the Laplacian, with z''_1 + ... + z''_K in one

Since a'' is linear in z'', a sum of second derivatives goes up as one quantity: that is the
"forward Laplacian". Shapes: x (N, I); first (K, N, I), second (P, N, I). A first of (K, 1, I)
stands for the same lines through every point.

Source: Griewank and Walther, *Evaluating Derivatives*, ch. 13 (Taylor coefficients); Li et al.,
*A computational framework for neural network-based variational Monte Carlo with Forward Laplacian*,
2023; Dangel et al., *Collapsing Taylor Mode Automatic Differentiation*, 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.activations import Activation
from manualbp.maths.backprop import Step
from manualbp.maths.layers import Elementwise, Linear, Needs, Theta, total
from manualbp.maths.layers.linear import product, rows
from manualbp.maths.order import Order

FEW = 8  # terms of a sum that are added one by one


class Jet(NamedTuple):
    """A quantity with its first and second derivatives; None for zeros. Also their gradients."""

    value: Tensor | None  # (N, I)
    first: Tensor | None  # (K, N, I), or (K, 1, I) where all points have the same
    second: Tensor | None  # (P, N, I)


@dataclass(frozen=True)
class Stage:
    """Steps in a row, o = f_L(... f_1(x)); a ``residual`` one is x + that."""

    steps: Sequence[Step]
    residual: bool = False


Tape = list[Jet]


def forward(h: Jet, stages: Sequence[Stage], order: Order, tape: Tape | None = None) -> Jet:
    """o, o', o'' of h. What ``backward`` reads goes on the tape."""
    for stage in stages:
        start = h
        for layer, theta, _ in stage.steps:
            if isinstance(layer, Linear):
                h = _kept(tape, h)
                h = linear(h, theta)
            else:
                h = elementwise(h, activation_of(layer), order, tape)
        h = sum_of(start, h) if stage.residual else h
    return h


def backward(
    g: Jet, stages: Sequence[Stage], order: Order, tape: Tape
) -> tuple[Tensor | None, list[Tensor | None]]:
    """dC/dx and every dC/dtheta in the order of backprop.flat, from g = dC/do, dC/do', dC/do''."""
    grads: list[Tensor | None] = []
    for stage in reversed(stages):
        start = g
        for layer, theta, needs in reversed(stage.steps):
            if isinstance(layer, Linear):
                g = linear_backward(g, tape.pop(), theta, needs, grads)
            else:
                g = elementwise_backward(g, tape.pop(), activation_of(layer), order)
        g = sum_of(start, g) if stage.residual else g
    return g.value, grads


def linear(h: Jet, theta: Theta) -> Jet:
    """z = h W^T + b,  z' = h' W^T,  z'' = h'' W^T."""
    weight, bias = theta
    value, first, second = h
    return Jet(
        F.linear(value, weight, bias),  # type: ignore[arg-type]
        None if first is None else F.linear(first, weight),  # type: ignore[arg-type]
        None if second is None else F.linear(second, weight),  # type: ignore[arg-type]
    )


def linear_backward(g: Jet, h: Jet, theta: Theta, needs: Needs, grads: list[Tensor | None]) -> Jet:
    """dC/dh, dC/dh', dC/dh''. dC/db and dC/dW go to ``grads``."""
    weight = theta[0]
    wants_weight, wants_bias = needs.theta
    grads.append(g.value.sum(0) if wants_bias and g.value is not None else None)
    grads.append(_weight_gradient(g, h) if wants_weight else None)
    if not needs.h:
        return Jet(None, None, None)
    return Jet(*(None if part is None else torch.matmul(part, weight) for part in g))  # type: ignore[arg-type]


def _weight_gradient(g: Jet, h: Jet) -> Tensor | None:
    """dC/dW: g^T h of each of the three, summed over points and lines."""
    found = None
    for left, right in zip(g, h, strict=True):
        if left is not None and right is not None:
            if left.dim() == 3 and left.shape[1] != right.shape[1]:  # the same of all points
                left = left.sum(1, keepdim=True)
            found = product(rows(left), rows(right), found)
    return found


def elementwise(z: Jet, f: Activation, order: Order, tape: Tape | None) -> Jet:
    """a = f(z),  a'_k = f' z'_k,  a'' = f' z'' + f'' q.  z goes on the tape, or a in its place."""
    value, first, curved = z
    a = f.f(value)  # type: ignore[arg-type]
    cache = a if f.needs == "a" else value
    _kept(tape, Jet(cache, first, curved))
    if first is None:
        return Jet(a, None, None)
    slope, curvature, _ = f.derivatives(cache)  # type: ignore[arg-type]
    found = None if curved is None else slope * curved
    if order.pairs and curvature is not None:
        found = plus(found, curvature, squares(first, order))
    return Jet(a, slope * first, found)


def elementwise_backward(g: Jet, z: Jet, f: Activation, order: Order) -> Jet:
    """dC/dz'' = f' g'',  dC/dz' = f' g' + f'' g'' dq/dz',  and dC/dz, the sum of all three."""
    cache, first, curved = z
    slope, curvature, third = f.derivatives(cache)  # type: ignore[arg-type]
    down, down_first, down_second = (None if part is None else slope * part for part in g)
    if curvature is None or first is None:
        return Jet(down, down_first, down_second)
    along = None if g.first is None else dot(g.first, first)
    if g.second is not None:
        if curved is not None:
            along = dot(g.second, curved, along)
        down_first = pulled(down_first, curvature * g.second, first, order)
        down = plus(down, third, dot(g.second, squares(first, order)))  # type: ignore[arg-type]
    if along is not None:
        down = plus(down, curvature, along)
    return Jet(down, down_first, down_second)


def plus(into: Tensor | None, left: Tensor, right: Tensor, times: float = 1) -> Tensor:
    """into + times left right."""
    if into is None:
        return left * right if times == 1 else times * left * right
    return torch.addcmul(into, left, right, value=times)


def dot(left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
    """into + sum_k left_k right_k, (N, O). Of a few terms without a tensor of all of them."""
    if len(left) > FEW:
        return total(into, (left * right).sum(0))  # type: ignore[return-value]
    for each, other in zip(left.unbind(0), right.unbind(0), strict=True):
        into = plus(into, each, other)
    return into  # type: ignore[return-value]


def squares(first: Tensor, order: Order) -> Tensor:
    """q (P, N, O) of z' (K, N, O)."""
    if order.summed:
        return dot(first, first)[None]
    if order.of_all_lines:
        return first * first
    k, m, _ = order.index(first.device)
    return first.index_select(0, k) * first.index_select(0, m)


def pulled(into: Tensor | None, g: Tensor, first: Tensor, order: Order) -> Tensor:
    """into + sum_p g_p dq_p/dz'_k, (K, N, O): z'_m for line k of each pair, and z'_k for m."""
    if order.of_all_lines:
        return plus(into, g, first, 2)
    k, m, _ = order.index(first.device)
    if into is None:
        into = g.new_zeros(len(first), *g.shape[1:])
    terms = torch.cat([g * first.index_select(0, m), g * first.index_select(0, k)])
    return into.index_add(0, torch.cat([k, m]), terms)


def sum_of(left: Jet, right: Jet) -> Jet:
    """Both added up, derivative by derivative."""
    return Jet(*map(total, left, right))


def _kept(tape: Tape | None, jet: Jet) -> Jet:
    if tape is not None:
        tape.append(jet)
    return jet


def activation_of(layer: object) -> Activation:
    """f of a layer that is neither Linear nor anything else."""
    if not isinstance(layer, Elementwise):
        raise TypeError(f"expected Linear or an activation, got {type(layer).__name__}")
    return layer.activation
