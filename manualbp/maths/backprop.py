"""Backpropagation through a chain of layers, as plain functions on tensors.

    forward        a_0 = x,   a_l = f_l(a_{l-1}; theta_l),   o = a_L

    backward       delta_L = dC/do
                   delta_{l-1}, dC/dtheta_l = layer l's backward of delta_l      l = L ... 1
                   dC/dx = delta_0

    double         v_0, V_l: cotangents of dC/dx and of every dC/dtheta_l
    backward       v_l = layer l's forward tangent in the direction (v_{l-1}, V_l)   l = 1 ... L
                   and the gradients of what the layer's backward read

delta_l is dC/da_l. For a linear layer followed by an activation the backward lines are Nielsen's
BP1-BP4 (layers/linear.py, layers/elementwise.py). The double backward is the R-operator: its upward
sweep finds the tangents z' and a', and gradients of the activations. ``backward`` takes those as
``injected`` and carries them down again.

What the layers keep between the two passes lies on one list, the tape. Forward adds to its end,
backward takes from there. So every tensor is freed as soon as it has been read.

Source: the article's recursion over layers; Nielsen ch. 2; Pearlmutter, *Fast exact multiplication
by the Hessian*, 1994. For any device and dtype. Nothing here asks autograd for a gradient, and
nothing prevents autograd from recording it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from manualbp.maths.layers import By, Kept, Layer, Needs, Tape, Theta, total


class Step(NamedTuple):
    """One layer of a chain, its parameters, and the gradients that are wanted of it."""

    layer: Layer
    theta: Theta
    needs: Needs


def steps(
    layers: Sequence[Layer],
    thetas: Sequence[Theta],
    wanted: Sequence[Sequence[bool]] | None = None,
    input: bool = True,
) -> list[Step]:
    """The chain, with dC/dh wanted wherever anything below wants a gradient.

    Args:
        layers: first layer first.
        thetas: the parameters of each.
        wanted: which of them want a gradient; None for all.
        input: whether dC/dx is wanted.
    """
    found, below = [], input
    for i, (layer, theta) in enumerate(zip(layers, thetas, strict=True)):
        wants = [t is not None for t in theta] if wanted is None else wanted[i]
        found.append(Step(layer, theta, Needs(below, tuple(wants))))
        below = below or any(wants)
    return found


def without_gradients(layers: Sequence[Layer], thetas: Sequence[Theta]) -> list[Step]:
    """The chain with no gradient wanted: forward keeps nothing."""
    return steps(layers, thetas, [(False,) * len(theta) for theta in thetas], input=False)


def flat(layers: Sequence[Layer], thetas: Sequence[Sequence[Any]]) -> list[Any]:
    """What is per parameter, in the order in which autograd comes back to it.

    That is the last layer first, and of a Linear the bias first. In that order gradients of a tied
    weight are added up, and data-parallel training lays them into its buckets.
    """
    found: list[Any] = []
    for layer, theta in zip(reversed(layers), reversed(thetas), strict=True):
        found += theta[::-1] if layer.last_first else theta
    return found


def by_layer(layers: Sequence[Layer], values: Sequence[Any]) -> list[Any]:
    """Back from ``flat``: a tuple for each layer, first layer first."""
    found, end = [], len(values)
    for layer in layers:
        theta = tuple(values[end - layer.parameters : end]) if layer.parameters else ()
        found.append(theta[::-1] if layer.last_first else theta)
        end -= len(theta)
    return found


def forward(x: Tensor, steps: Sequence[Step]) -> tuple[Tensor, Tape]:
    """o = f_L(... f_1(x; theta_1) ...; theta_L), and what the gradients in ``needs`` will read."""
    tape: Tape = []
    for layer, theta, needs in steps:
        x = layer.forward(x, theta, needs, tape)
    return x, tape


def tape_of(x: Tensor, steps: Sequence[Step]) -> Tape:
    """The tape of ``forward`` alone: o is not computed where no backward reads it."""
    layer, theta, needs = steps[-1]
    if layer.reads_forward():
        return forward(x, steps)[1]
    h, tape = forward(x, steps[:-1])
    return [*tape, *layer.keep(h, theta, needs)]


class Gradients(NamedTuple):
    """dC/dx and every dC/dtheta in the order of ``flat``, None where not wanted.

    Where the pass is recorded, also the delta that each layer's backward read.
    """

    input: Tensor | None
    thetas: list[Tensor | None]
    deltas: list[Tensor | None]


def backward(
    delta: Tensor | None,
    steps: Sequence[Step],
    tape: Tape,
    by: By = "kernel",
    over: bool = False,
    injected: Mapping[int, Tensor] | None = None,
) -> Gradients:
    """delta_{l-1}, dC/dtheta_l from delta_l, last layer first, to where no gradient is wanted.

    Args:
        delta: dC/do; None where C does not read o.
        steps: what ``forward`` ran, or the same with fewer needs.
        tape: what ``forward`` returned. It is emptied.
        by: how each layer computes its gradients (layers/base.py).
        over: whether a layer may write over the delta that the layer above returned.
        injected: dC/da_i by i, as far as C reads the output a_i of layer i itself. In training it
            does not. These, and delta as it is given, are never written over.
    """
    grads: list[Tensor | None] = []
    deltas: list[Tensor | None] = []
    ours = False  # whether delta is a layer's result, or a sum, and nobody else's tensor
    for i in range(len(steps) - 1, -1, -1):
        layer, theta, needs = steps[i]
        if not (needs.h or any(needs.theta)):
            delta = None  # nor below
            grads += [None] * sum(len(step.theta) for step in steps[: i + 1])
            break
        if injected and i in injected:
            ours, delta = delta is not None, total(delta, injected[i])
        if by == "recorded":
            deltas.append(delta)
        if delta is None:
            del tape[-layer.keeps :]
            grads += [None] * len(theta)
            continue
        below = layer.backward(delta, needs, tape, grads, by, over and ours)
        ours, delta = ours or below is not delta, below  # the identity returns delta itself
    missing = len(steps) - len(deltas)
    return Gradients(delta, grads, [*[None] * missing, *reversed(deltas)] if deltas else deltas)


def double_backward(
    v_input: Tensor | None,
    v_thetas: Sequence[Theta],
    v_deltas: Sequence[Tensor | None],
    deltas: Sequence[Tensor | None],
    steps: Sequence[Step],
    tape: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], Tape]:
    """The gradients of S = v . dC/dx + sum_l V_l . dC/dtheta_l for injected and for the tape.

    Args:
        v_input: cotangent of dC/dx; None for zeros.
        v_thetas: cotangents of every dC/dtheta, layer by layer; None for zeros.
        v_deltas: cotangents of the deltas themselves, which a third derivative has.
        deltas: delta_l of ``backward``.
        steps: as for ``backward``, where ``needs`` are those of dS/dh and dS/dtheta.
        tape: as for ``backward``. It is left as it is.
    """
    tangents: list[Tensor | None] = []
    found: Tape = []
    v = v_input
    for i, (layer, _, needs) in enumerate(steps):
        delta, kept = deltas[i], tape[len(found) : len(found) + layer.keeps]
        grads: Kept = (None,) * layer.keeps
        if delta is None:
            v = None
        else:
            v, grads = layer.double_backward(v, v_thetas[i], delta, kept, needs)
        v = total(v, v_deltas[i])
        tangents.append(v)
        found += grads
    return tangents, found
