"""u and du/dx of a chain by backpropagation, and the gradients of a cost that reads both.

    up      z = h W^T + b,  a = f(z)
    down    d = e_o at the top, one output at a time;   f' d,   d of the layer below = d W;
            du_o/dx at the bottom
    up      v = dC/d(du_o/dx) at the bottom;   z' = v W^T,   dC/dW += d^T v;
            brought += d z',   v of the layer above = f' z'
    down    g = dC/du at the top;   dC/dz = f' g + f'' brought,   dC/dW += g^T h,   dC/db = sum_n g

Each sweep has one product a layer, so O outputs take 3 + 3 O products; K lines by maths/taylor.py
take 3 + 3 K. Where f' is computed from a, s is its slope in a, and dC/dz = f' (g + s brought).
Shapes: x (N, I), u (N, O), each d of its layer's output.

Source: Pearlmutter, *Fast exact multiplication by the Hessian*, 1994.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.activations import Activation
from manualbp.maths.backprop import Step
from manualbp.maths.layers import Linear
from manualbp.maths.layers.linear import product
from manualbp.maths.taylor import activation_of, plus


class Forward(NamedTuple):
    """What the first two sweeps find."""

    u: Tensor  # (N, O)
    du: list[Tensor]  # (N, I) of each output
    tape: list[Tensor]  # h of each Linear, and what f' is computed from of each activation
    deltas: list[list[Tensor]]  # d of each output, layer by layer


Tensors = list[Tensor | None]


def forward(x: Tensor, steps: Sequence[Step], recorded: bool) -> Forward:
    """u and du/dx; ``recorded`` says whether autograd records or batches this."""
    h, tape = x, []
    for layer, theta, _ in steps:
        below = h
        if isinstance(layer, Linear):
            h = F.linear(h, *theta)  # type: ignore[arg-type]
            tape.append(below)
        else:
            f = activation_of(layer)
            h = f.f(h)
            tape.append(h if f.needs == "a" else below)
    du, deltas = [], []
    for output in range(h.shape[1]):
        d = torch.zeros_like(h)
        d.select(1, output).fill_(1)
        found = []
        for (layer, theta, _), kept in zip(reversed(steps), reversed(tape), strict=True):
            found.append(d)
            if isinstance(layer, Linear):
                d = d.mm(theta[0])  # type: ignore[arg-type]
            else:
                f = activation_of(layer)
                d = (f.recorded if recorded else f).backward(d, kept)
        du.append(d)
        deltas.append(found[::-1])
    return Forward(h, du, tape, deltas)


def backward(
    grad_u: Tensor | None, grads_du: Sequence[Tensor | None], steps: Sequence[Step],
    tape: Sequence[Tensor], deltas: Sequence[Sequence[Tensor]], recorded: bool,
) -> tuple[Tensor | None, Tensors]:  # fmt: skip
    """dC/dx and every dC/dtheta in the order of backprop.flat.

    Args:
        grad_u: dC/du (N, O); None for zeros, as in ``grads_du``.
        grads_du: dC/d(du_o/dx) (N, I) of each output.
        steps: as for ``forward``, with the gradients that are wanted.
        tape: ``Forward.tape``.
        deltas: ``Forward.deltas``.
        recorded: as for ``forward``.
    """
    brought: Tensors = [None] * len(steps)
    for v, down in zip(grads_du, deltas, strict=True):
        if v is not None:
            tangents(v, steps, tape, down, brought)
    g, grads = grad_u, list[Tensor | None]()
    for (layer, theta, needs), kept, more in zip(
        reversed(steps), reversed(tape), reversed(brought), strict=True
    ):
        if isinstance(layer, Linear):
            wants_weight, wants_bias = needs.theta
            grads.append(g.sum(0) if wants_bias and g is not None else None)
            grads.append((more if g is None else product(g, kept, more)) if wants_weight else None)
            g = g.mm(theta[0]) if needs.h and g is not None else None  # type: ignore[arg-type]
        elif needs.h:
            g = _lowered(g, more, activation_of(layer), kept, recorded)
    return g, grads


def _lowered(
    g: Tensor | None, brought: Tensor | None, f: Activation, kept: Tensor, recorded: bool
) -> Tensor | None:  # fmt: skip
    """dC/dz of an activation: f' g + f'' brought."""
    rule = f.recorded if recorded else f
    if brought is None or (slope := f.second_derivative(kept)) is None:
        return None if g is None else rule.backward(g, kept)
    if f.needs == "a":
        return rule.backward(plus(g, slope, brought), kept)
    return plus(None if g is None else rule.backward(g, kept), slope, brought)


def tangents(
    v: Tensor, steps: Sequence[Step], tape: Sequence[Tensor], deltas: Sequence[Tensor],
    brought: Tensors,
) -> None:  # fmt: skip
    """The way up of one output's v: d z', which it brings in, and d^T v at a Linear."""
    for i, (layer, theta, needs) in enumerate(steps):
        if not isinstance(layer, Linear):
            brought[i] = plus(brought[i], deltas[i], v)
            v = activation_of(layer).recorded.backward(v, tape[i])
            continue
        if needs.theta[0]:
            brought[i] = product(deltas[i], v, brought[i])
        if i + 1 < len(steps):
            v = F.linear(v, theta[0])  # type: ignore[arg-type]
