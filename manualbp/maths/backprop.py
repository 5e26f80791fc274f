"""Backpropagation through a chain of layers, as plain functions on tensors.

    forward        a_0 = x,   a_l = f_l(a_{l-1}; theta_l),   o = a_L

    backward       delta_L = dC/do
                   delta_{l-1}, dC/dtheta_l = layer l's backward of delta_l      l = L ... 1
                   dC/dx = delta_0

    double         v_0, V_l: cotangents of dC/dx and of every dC/dtheta_l
    backward       v_l = layer l's forward tangent in the direction (v_{l-1}, V_l)   l = 1 ... L
                   and what the layer's backward read gets its gradient on the way

delta_l is dC/da_l. For a linear layer followed by an activation the backward lines are Nielsen's
BP1-BP4 (layers/linear.py, layers/elementwise.py). The double backward is the R-operator: its upward
sweep computes the tangents z' and a', and it injects gradients into the activations, from where
``backward``, given them as ``injected``, carries them down again.

Source: the article's recursion over layers; Nielsen ch. 2; Pearlmutter, *Fast exact multiplication
by the Hessian*, 1994. Device- and dtype-agnostic; nothing here is differentiated by autograd, and
nothing prevents autograd from recording it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from manualbp.maths.layers import Cache, Layer, Needs, Theta, total


def needs_of(input: bool, thetas: Sequence[tuple[bool, ...]]) -> list[Needs]:
    """What each layer has to compute: dC/dh wherever anything below it wants a gradient."""
    found, below = [], input
    for theta in thetas:
        found.append(Needs(below, theta))
        below = below or any(theta)
    return found


def everything(thetas: Sequence[Theta]) -> list[Needs]:
    """Every gradient there is."""
    return needs_of(True, [tuple([t is not None for t in theta]) for theta in thetas])


def nothing(thetas: Sequence[Theta]) -> list[Needs]:
    """No gradient at all: so forward keeps nothing."""
    return [Needs(False, (False,) * len(theta)) for theta in thetas]


def forward(
    x: Tensor,
    layers: Sequence[Layer],
    thetas: Sequence[Theta],
    needs: Sequence[Needs] | None = None,
) -> tuple[Tensor, list[Cache]]:
    """o = f_L(... f_1(x; theta_1) ...; theta_L), and the cache of every layer.

    Args:
        x: (..., I).
        layers: the chain.
        thetas: the parameters of each layer.
        needs: the gradients that will be wanted, all by default; what none of them reads is not
            kept.
    """
    caches = []
    for layer, theta, need in zip(layers, thetas, needs or everything(thetas), strict=True):
        x, cache = layer.forward(x, theta, need)
        caches.append(cache)
    return x, caches


def caches_of(
    x: Tensor, layers: Sequence[Layer], thetas: Sequence[Theta], needs: Sequence[Needs]
) -> list[Cache]:
    """The caches of ``forward`` alone: o is not computed where no backward reads it."""
    if layers[-1].reads_forward():
        return forward(x, layers, thetas, needs)[1]
    h, caches = forward(x, layers[:-1], thetas[:-1], needs[:-1])
    return [*caches, layers[-1].cache(h, thetas[-1], needs[-1])]


class Gradients(NamedTuple):
    """dC/dx and every dC/dtheta, None where not wanted; where recorded, every delta as well."""

    input: Tensor | None
    thetas: list[Theta]
    deltas: list[Tensor | None]


def backward(
    injected: Sequence[Tensor | None],
    layers: Sequence[Layer],
    caches: list[Cache],
    needs: Sequence[Needs],
    by: Literal["backward", "recorded", "formula"] = "backward",
) -> Gradients:
    """delta_{l-1}, dC/dtheta_l from delta_l, last layer first, to where no gradient is wanted.

    Args:
        injected: dC/da_l as far as C reads a_l itself, per layer; None for zeros. In training C
            reads the output alone, and only the last entry is there.
        layers: what ``forward`` ran.
        caches: what ``forward`` returned; a layer's is emptied as soon as it has been read.
        needs: the gradients wanted.
        by: the method of each layer that runs: ``backward`` and, where autograd records,
            ``recorded`` round like autograd, ``formula`` is the written expression.
    """
    thetas: list[Theta] = [(None,) * len(need.theta) for need in needs]
    deltas: list[Tensor | None] = [None] * len(layers)
    delta: Tensor | None = None
    rule: str = by
    for i in reversed(range(len(layers))):
        if not needs[i]:
            return Gradients(None, thetas, deltas)
        delta = total(delta, injected[i])
        if delta is None:
            continue
        if by == "recorded":
            deltas[i] = delta
        cache, caches[i] = caches[i], Cache()
        delta, *theta = getattr(layers[i], rule)(delta, cache, needs[i])
        thetas[i] = tuple(theta)
        if by == "backward" and delta is not None:
            rule = "backward_over"  # from here on delta is not the caller's, and not recorded
    return Gradients(delta, thetas, deltas)


def double_backward(
    v_input: Tensor | None,
    v_thetas: Sequence[Theta],
    v_deltas: Sequence[Tensor | None],
    deltas: Sequence[Tensor | None],
    layers: Sequence[Layer],
    caches: Sequence[Cache],
    needs: Sequence[Needs],
) -> tuple[list[Tensor | None], list[Cache]]:
    """The gradients of S = v . dC/dx + sum_l V_l . dC/dtheta_l for injected and caches.

    Args:
        v_input: cotangent of dC/dx; None for zeros.
        v_thetas: cotangents of every dC/dtheta; None for zeros.
        v_deltas: cotangents of the deltas themselves, which a third derivative has.
        deltas: delta_l of ``backward``.
        layers: as for ``backward``.
        caches: as for ``backward``.
        needs: which of dS/dh and dS/dtheta are wanted.
    """
    tangents: list[Tensor | None] = []
    found: list[Cache] = []
    v = v_input
    for i, layer in enumerate(layers):
        delta, cache = deltas[i], Cache()
        if delta is None:
            v = None
        else:
            v, cache = layer.double_backward(v, v_thetas[i], delta, caches[i], needs[i])
        v = total(v, v_deltas[i])
        tangents.append(v)
        found.append(cache)
    return tangents, found
