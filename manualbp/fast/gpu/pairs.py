"""Layers for GPUs: a Linear and the activation next to it in one step.

    up     a_l = f(h W_l^T + b_l)                       the Linear with the activation behind it
    down   dC/dz_{l-1} = (dC/dz_l W_l) * f'_{l-1}       the Linear with the activation before it
           dC/db_{l-1} = sum_n dC/dz_{l-1}              while dC/dz_{l-1} is there

The Linear does not multiply. It hands its factors on, as ``Up`` or ``Down``, and the activation
does both at once. The pair keeps what the plain layers keep. products.py runs each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manualbp.autograd.torch_internals import nobody_records
from manualbp.fast.gpu import products
from manualbp.maths.layers import (
    By,
    Elementwise,
    Grads,
    Layer,
    Linear,
    Needs,
    Tape,
    Theta,
    own,
    read,
    rows,
)
from manualbp.maths.layers.linear import like_input


class Up(NamedTuple):
    """z = h W^T + b, not yet computed."""

    h: Tensor
    weight: Tensor
    bias: Tensor | None


class Down(NamedTuple):
    """dC/dh = delta W, not yet computed."""

    delta: Tensor
    weight: Tensor

    def __add__(self, other: Any) -> Any:
        """The product, plus another gradient that comes in there."""
        return like_input(rows(self.delta).mm(self.weight), self.delta, self.weight) + other


class Summed(NamedTuple):
    """delta, with its sum over the rows."""

    delta: Tensor
    sums: Tensor

    def __add__(self, other: Any) -> Any:
        """Without ``sums``: a delta with another added has other sums."""
        return self.delta + other


@dataclass(frozen=True)
class PairedLinear(Linear):
    """z = h W^T + b, which leaves its products to the activations next to it."""

    behind: bool = False  # whether an activation stands directly behind it
    before: bool = False  # whether one stands directly before it

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Any:
        if not self.behind:
            return super().forward(h, theta, needs, tape)
        tape += self.keep(h, theta, needs)
        return Up(h, read(theta[0]), theta[1])

    def backward(
        self, delta: Any, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Any:  # fmt: skip
        delta, sums = delta if isinstance(delta, Summed) else (delta, None)
        plain = nobody_records(delta) and not torch.is_autocast_enabled(delta.device.type)
        hands_on = self.before and needs.h and by == "kernel" and plain
        weight = tape[-1]
        own_needs = Needs(
            needs.h and not hands_on, (needs.theta[0], needs.theta[1] and sums is None)
        )
        grad_h = super().backward(delta, own_needs, tape, grads, by, over)
        if needs.theta[1] and sums is not None:
            grads[-2] = sums
        return Down(delta, read(weight)) if hands_on else grad_h


@dataclass(frozen=True)
class PairedActivation(Elementwise):
    """a = f(z), where z or delta may be a product that is not yet computed."""

    summed: bool = False  # whether a Linear with a bias stands directly before it

    def reads_forward(self) -> bool:
        return True  # z is computed there

    def h_at(self) -> int | None:
        return 0 if self.activation.needs == "z" else None

    def a_at(self) -> int | None:
        return 0 if self.activation.needs == "a" else None

    def forward(self, h: Any, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        if not isinstance(h, Up):
            return super().forward(h, theta, needs, tape)
        f, shape = self.activation, (*h.h.shape[:-1], h.weight.shape[0])
        by_z = f.needs == "z"
        a, z = products.activated(rows(h.h), h.weight, h.bias, f, keep=needs.h and by_z)
        if h.h.dim() != 2:
            a, z = own(a.view(shape)), None if z is None else own(z.view(shape))
        tape.append((z if by_z else a) if needs.h else None)
        return a

    def backward(
        self, delta: Any, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Any:  # fmt: skip
        if not isinstance(delta, Down):
            return super().backward(delta, needs, tape, grads, by, over)
        z_or_a = read(tape.pop())
        below, sums = products.activated_input_gradient(
            rows(delta.delta), delta.weight, self.activation, rows(z_or_a), self.summed
        )
        below = below if z_or_a.dim() == 2 else below.view(z_or_a.shape)
        return below if sums is None else Summed(below, sums)


def paired(layers: Sequence[Layer], thetas: Sequence[Theta]) -> list[Layer]:
    """The chain with every Linear paired with the activations next to it."""
    found: list[Layer] = []
    for i, layer in enumerate(layers):
        before = layers[i - 1] if i else None
        behind = layers[i + 1] if i + 1 < len(layers) else None
        if isinstance(layer, Linear):
            layer = PairedLinear(
                behind=isinstance(behind, Elementwise), before=isinstance(before, Elementwise)
            )
        elif isinstance(layer, Elementwise):
            summed = isinstance(before, Linear) and thetas[i - 1][1] is not None
            layer = PairedActivation(layer.activation, layer.in_place, summed)
        found.append(layer)
    return found
