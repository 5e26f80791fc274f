"""Layers without parameters that act on every number by itself: activations and dropout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.maths.activations import Activation
from manualbp.maths.layers.base import By, Grads, Kept, Layer, Needs, Tape, Theta, read

aten = torch.ops.aten
WORTH_IT = 2**12  # elements from which writing over delta saves more than it costs to look


@dataclass(frozen=True)
class Elementwise(Layer):
    """a = f(z);  dC/dz = dC/da * f'(z), f' from z or a, as the activation needs (BP1, BP2).

    PyTorch sees a z of more than two dimensions behind a Linear as a view of (N, O). An activation
    that writes over that view (``in_place``) makes delta row-major first, and the gradients below
    are rounded from there.
    """

    activation: Activation
    in_place: bool = False  # and directly behind a Linear
    by_r_operator = True

    def by_rows(self) -> bool:
        return True

    def prefers_r_operator(self, kept: Kept) -> bool:
        least, z_or_a = self.activation.r_operator_from, kept[0]
        return least is not None and z_or_a is not None and z_or_a.numel() >= least

    def h_at(self) -> int | None:
        return None if self.reads_forward() else 0

    def a_at(self) -> int | None:
        return 0 if self.reads_forward() else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        a = self.activation.f(h)
        tape.append((a if self.activation.needs == "a" else h) if needs.h else None)
        return a

    def reads_forward(self) -> bool:
        return self.activation.needs == "a"

    def keep(self, h: Tensor, theta: Theta, needs: Needs) -> Kept:
        return (h if needs.h else None,)

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor:  # fmt: skip
        f, z_or_a = self.activation, tape.pop()
        z_or_a = z_or_a if z_or_a is not None else read(z_or_a)
        if self.in_place and delta.dim() > 2 and by != "formula":
            delta = delta.contiguous()
        if by == "kernel":
            over = over and delta.numel() >= WORTH_IT and same_layout(delta, z_or_a)
            return f.backward(delta, z_or_a, delta if over else None)
        return f.recorded.backward(delta, z_or_a) if by == "recorded" else f.formula(delta, z_or_a)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, kept: Kept, needs: Needs
    ) -> tuple[Tensor | None, Kept]:
        """a' = v f' for delta, the forward tangent of a;  v delta f'' for z (or its like for a)."""
        if v is None:
            return None, (None,)
        tangent, found = self.activation.recorded.double_backward(v, delta, read(kept[0]))
        return tangent, (found,)


def same_layout(delta: Tensor, other: Tensor) -> bool:
    """Whether a kernel lays out its result as delta, so that it can write over delta."""
    return delta.is_contiguous() and other.is_contiguous() and delta.dtype is other.dtype


@dataclass(frozen=True)
class Dropout(Layer):
    """a = h m / (1 - p), m = 0 with probability p, else 1;  dC/dh = delta m / (1 - p).

    The mask is drawn as torch.nn.Dropout draws it, so one generator state gives the same mask.
    On CPU it is kept as one byte an element, where autograd keeps a number.
    """

    p: float
    by_r_operator = True
    constant = False

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        if h.is_cuda:
            a, mask = aten.native_dropout(h, self.p, True)
        else:
            noise = torch.empty_like(h).bernoulli_(1 - self.p)
            mask = noise.bool() if needs.h else None
            a = h * noise.div_(1 - self.p)
        tape.append(mask if needs.h else None)
        return a

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor:  # fmt: skip
        return self._masked(delta, read(tape.pop()))

    def _masked(self, delta: Tensor, mask: Tensor) -> Tensor:
        if delta.is_cuda:
            return aten.native_dropout_backward(delta, mask, 1 / (1 - self.p))
        return delta * mask.to(delta.dtype).div_(1 - self.p)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, kept: Kept, needs: Needs
    ) -> tuple[Tensor | None, Kept]:
        """v m / (1 - p) for delta: linear in h, so nothing for h."""
        return None if v is None else self._masked(v, read(kept[0])), (None,)
