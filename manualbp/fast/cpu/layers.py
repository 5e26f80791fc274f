"""Linear layers by the fastest routines: the formulas of maths/layers/linear.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from manualbp.autograd.torch_internals import nobody_records
from manualbp.fast.cpu import products
from manualbp.fast.cpu.products import NAMES
from manualbp.maths.activations import Activation
from manualbp.maths.backprop import Step
from manualbp.maths.layers import (
    LINEAR,
    By,
    Elementwise,
    Grads,
    Kept,
    Layer,
    Linear,
    Needs,
    Tape,
    Theta,
    own,
    read,
    rows,
    taken,
)
from manualbp.maths.layers.linear import like_input


@dataclass(frozen=True)
class FastLinear(Linear):
    """a = f(h W^T + b), written over z. f is the identity, or its f' is computed from a.

    delta <- delta * f',  dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W.
    """

    activation: Activation | None = None
    by_r_operator = False
    keeps = 3

    def a_at(self) -> int | None:
        return 2 if self.reads_forward() else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        a = self.output(h, theta)
        tape += self.keep(h, theta, needs)
        if self.activation is not None and needs:
            tape[-1] = a
        return a

    def output(self, h: Tensor, theta: Theta) -> Tensor:
        weight, f = read(theta[0]), self.activation
        a = products.linear(rows(h), weight, theta[1], "none" if f is None else NAMES[type(f)])
        return a if h.dim() == 2 else own(a.view(*h.shape[:-1], weight.shape[0]))

    def reads_forward(self) -> bool:
        return self.activation is not None

    def keep(self, h: Tensor, theta: Theta, needs: Needs) -> Kept:
        return *super().keep(h, theta, needs), None

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        a = tape.pop()
        if self.activation is not None:
            delta = Elementwise(self.activation).backward(delta, needs, [a], [], by, over)
        if by != "kernel":  # ATen's products have derivatives
            return LINEAR.backward(delta, needs, tape, grads, by)
        weight, h = tape.pop(), tape.pop()
        g = rows(delta)
        grads.append(g.sum(0) if needs.theta[1] else None)
        grads.append(products.weight_gradient(g, rows(read(h))) if needs.theta[0] else None)
        if not needs.h:
            return None
        return like_input(products.input_gradient(g, read(weight)), delta, read(weight))


@dataclass(frozen=True)
class ActivatedLinear(FastLinear):
    """o = g(f(h) W^T + b), where f' is computed from h. So h is kept, and a = f(h) is not.

    a = f(h) once more,  dC/dW = delta^T a,  dC/db = sum_n delta,  dC/dh = (delta W) * f'(h).
    g is the activation of FastLinear.
    """

    before: Activation = field(kw_only=True)  # f

    def output(self, h: Tensor, theta: Theta) -> Tensor:
        return super().output(self.before.f(h), theta)

    def keep(self, h: Tensor, theta: Theta, needs: Needs) -> Kept:
        _, *others = super().keep(h, theta, needs)
        return h if needs.h or needs.theta[0] else None, *others

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        h, *others = taken(tape, self.keeps)
        a = self.before.f(read(h)) if needs.theta[0] else None
        grad_a = super().backward(delta, needs, [a, *others], grads, by, over)
        if grad_a is None:
            return None
        # f' is multiplied over the fresh delta W.
        over = by == "kernel" and nobody_records(grad_a)
        return Elementwise(self.before).backward(grad_a, needs, [h], [], by, over)


def joined(chain: Sequence[Layer], thetas: Sequence[Theta]) -> tuple[list[Layer], list[Theta]]:
    """The chain of fast layers.

    A Linear joins the activation behind it if that can write over z. It also joins the activation
    before it if that reads z in backward: then z alone is kept.
    """
    found: list[Layer] = []
    found_thetas: list[Theta] = []
    for layer, theta in zip(chain, thetas, strict=True):
        last = found[-1] if found else None
        f = layer.activation if isinstance(layer, Elementwise) else None
        if isinstance(last, FastLinear) and last.activation is None and type(f) in NAMES:
            found[-1] = replace(last, activation=f)
            continue
        if not isinstance(layer, Linear):
            found.append(layer)
        elif isinstance(last, Elementwise) and last.activation.needs == "z":
            found[-1] = ActivatedLinear(before=last.activation)
            found_thetas.pop()
        else:
            found.append(FastLinear())
        found_thetas.append(theta)
    return found, found_thetas


def apart(steps: Sequence[Step]) -> list[Step]:
    """The steps with every activation before a Linear as a step of its own. Both are kept then."""
    found: list[Step] = []
    for step in steps:
        layer, theta, needs = step
        if isinstance(layer, ActivatedLinear):
            # The activation's delta is wanted for what is below; the Linear's for the activation.
            found.append(Step(Elementwise(layer.before), (), Needs(needs.h)))
            step = Step(FastLinear(activation=layer.activation), theta, needs)
        found.append(step)
    return found
