"""u and du/dx of a chain by backpropagation, and the gradients of a cost that reads both.

    up      backprop.forward
    down    from delta_L = e_o, one output at a time, backprop.backward;   du_o/dx = delta_0
    up      from v_0 = dC/d(du_o/dx), backprop.double_backward: the tangents v_l, and what they
            bring in at z_l (for tanh and the like at a_l) and at W_l
    down    from dC/du, backprop.backward, with that injected

Each sweep has one product a layer, so O outputs take 3 + 3 O products; K lines by maths/taylor.py
take 3 + 3 K. Shapes: x (N, I), u (N, O), each delta of its layer's output.

Source: Pearlmutter, *Fast exact multiplication by the Hessian*, 1994.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients, Step
from manualbp.maths.layers import By, Needs, Tape, total


class Forward(NamedTuple):
    """What the first two sweeps find."""

    u: Tensor  # (N, O)
    du: list[Tensor]  # (N, I) of each output
    tape: Tape
    deltas: list[list[Tensor | None]]  # of each output, layer by layer


def forward(x: Tensor, steps: Sequence[Step]) -> Forward:
    """u and du/dx; every gradient by x has to be wanted."""
    u, tape = backprop.forward(x, steps)
    down = [Step(layer, theta, Needs(True, (False,) * len(theta))) for layer, theta, _ in steps]
    du, deltas = [], []
    for output in range(u.shape[1]):
        delta = torch.zeros_like(u)
        delta[:, output] = 1
        found = backprop.backward(delta, down, list(tape), "recorded")
        du.append(delta if found.input is None else found.input)
        deltas.append(found.deltas)
    return Forward(u, du, tape, deltas)


def backward(
    grad_u: Tensor | None,
    grads_du: Sequence[Tensor | None],
    steps: Sequence[Step],
    tape: Tape,
    deltas: Sequence[Sequence[Tensor | None]],
    by: By,
) -> Gradients:
    """dC/dx and every dC/dtheta, from dC/du (N, O) and dC/d(du_o/dx) (N, I) of each output.

    Args:
        grad_u: None for zeros, as in ``grads_du``.
        grads_du: of each output.
        steps: as for ``forward``, with the gradients that are wanted.
        tape: ``Forward.tape``.
        deltas: ``Forward.deltas``.
        by: how each layer computes its gradients (layers/base.py).
    """
    nothing = [(None,) * len(step.theta) for step in steps]
    brought: Tape = [None] * len(tape)
    for v, down in zip(grads_du, deltas, strict=True):
        if v is not None:
            more = backprop.double_backward(v, nothing, [None] * len(steps), down, steps, tape)[1]
            brought = list(map(total, brought, more))
    injected: dict[int, Tensor] = {}
    weights: list[Tensor | None] = []
    for i, at, grad in _places(steps, brought):
        if at is None:
            weights = [*[None] * (len(steps[i].theta) - 1), grad, *weights]
        elif grad is not None:
            injected[at] = grad if at not in injected else injected[at] + grad
    at_x = injected.pop(-1, None)
    found = backprop.backward(grad_u, steps, list(tape), by, injected=injected)
    return Gradients(total(found.input, at_x), list(map(total, found.thetas, weights)), [])


def _places(
    steps: Sequence[Step], brought: Tape
) -> Iterator[tuple[int, int | None, Tensor | None]]:
    """(layer, i, dC/da_i) of all that lies on the tape, a_{-1} being x; i None for dC/dW."""
    start = 0
    for i, (layer, theta, _) in enumerate(steps):
        here = brought[start : start + layer.keeps]
        if theta:
            yield i, None, here[-1]
        else:
            yield i, i if layer.reads_forward() else i - 1, here[0]
        start += layer.keeps
