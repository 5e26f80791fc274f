"""The gated MLP of transformers: SwiGLU with SiLU, GEGLU with GELU.

    z = x G^T,  u = x U^T,  a = f(z),  m = a * u,  o = m D^T      (biases optional)

    dC/dm = delta D            dC/dD = delta^T m
    dC/du = dC/dm * a          dC/dU = (dC/du)^T x
    dC/dz = dC/dm * u * f'(z)  dC/dG = (dC/dz)^T x                dC/dx = dC/du U + dC/dz G

N batch, I features, H hidden features. x (..., I), G and U (H, I), z, u, a, m (..., H), D (I, H).
Forward keeps x, u and z (or a, as f' needs). Backward computes a and m again. So two hidden
activations are kept where autograd keeps up to four; with frozen weights fewer.
Source: Shazeer, *GLU Variants Improve Transformer*, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from manualbp.maths.layers import By, Elementwise, Linear, Needs, Tape, Theta, read, total


class GatedLayers(NamedTuple):
    """The layers of a gated block."""

    gate: Linear  # G
    f: Elementwise
    up: Linear  # U
    down: Linear  # D


class Wanted(NamedTuple):
    """The gradients that are wanted: by G, U and D, their biases and their inputs."""

    gate: Needs
    up: Needs
    down: Needs


def wanted(gate: Needs, up: Needs, down: Sequence[bool]) -> Wanted:
    """dC/dm is wanted where anything below it wants a gradient."""
    return Wanted(gate, up, Needs(bool(gate) or bool(up), tuple(down)))


def parts(block: GatedLayers, tape: Tape) -> list[Tape]:
    """The tape in parts: what D, U, G and f keep, then u, a and m, or None for each."""
    found, start = [], 0
    for layer in (block.down, block.up, block.gate, block.f):
        found.append(tape[start : start + layer.keeps])
        start += layer.keeps
    return [*found, tape[start:]]


def forward(
    x: Tensor, block: GatedLayers, gate: Theta, up: Theta, down: Theta, needs: Wanted
) -> tuple[Tensor, Tape]:
    """o, and what backward reads."""
    to_down, to_up, to_gate = Tape(), Tape(), Tape()
    z = block.gate.forward(x, gate, needs.gate, to_gate)
    u = block.up.forward(x, up, needs.up, to_up)
    a = block.f.forward(z, (), Needs(bool(needs.gate)), to_gate)
    m = a * u
    o = block.down.forward(m, down, needs.down, to_down)
    to_down[0] = None  # m is computed again from u and a, and a from z, where those are kept
    keeps_u = bool(needs.gate) or (bool(needs.up) and needs.down.theta[0])
    keeps_a = bool(needs.up) and not needs.gate
    keeps_m = needs.down.theta[0] and not keeps_u
    others = u if keeps_u else None, a if keeps_a else None, m if keeps_m else None
    return o, [*to_down, *to_up, *to_gate, *others]


def hidden(block: GatedLayers, tape: Tape, needs: Wanted) -> tuple[Tensor | None, Tensor | None]:
    """The activations on the tape that depend on x and parameters: u, and z or a."""
    *_, (z_or_a,), (u, _, _) = parts(block, tape)
    return u if needs.up else None, z_or_a if needs.gate else None


class GatedGradients(NamedTuple):
    """For G, U and D: the gradient by the layer's input, by its weight and by its bias."""

    gate: Theta
    up: Theta
    down: Theta


def backward(
    delta: Tensor | None,
    injected: tuple[Tensor | None, Tensor | None],
    block: GatedLayers,
    tape: Tape,
    needs: Wanted,
    by: By = "kernel",
) -> GatedGradients:
    """The gradients above, from delta = dC/do.

    ``injected`` are dC/du and dC/dz (or dC/da, where a is kept), where C reads those itself.
    """
    by_down, by_up, by_gate, by_f, (u, a, m) = parts(block, tape)
    (z_or_a,) = by_f
    grad_u, grad_f = injected
    if z_or_a is not None:
        a = z_or_a if block.f.reads_forward() else block.f.activation.f(z_or_a)
    grad_a, grads_down = None, NOTHING
    if delta is not None:
        if needs.down.theta[0]:
            by_down[0] = read(a) * read(u) if m is None else m
        grads_down = _linear(block.down, delta, needs.down, by_down, by)
        grad_m = grads_down[0]
        if needs.up:
            grad_u = total(read(grad_m) * read(a), grad_u)
        if needs.gate:
            grad_a = read(grad_m) * read(u)
    if block.f.reads_forward():  # C reads a itself, not z
        grad_a, grad_f = total(grad_a, grad_f), None
    grad_z = None
    if grad_a is not None:
        grad_z = block.f.backward(grad_a, Needs(True), by_f, [], by)
    return GatedGradients(
        _linear(block.gate, total(grad_z, grad_f), needs.gate, by_gate, by),
        _linear(block.up, grad_u, needs.up, by_up, by),
        grads_down,
    )


NOTHING: Theta = (None, None, None)


def _linear(linear: Linear, delta: Tensor | None, needs: Needs, kept: Tape, by: By) -> Theta:
    """dC/dh, dC/dW and dC/db of one projection."""
    if delta is None:
        return NOTHING
    grads: list[Tensor | None] = []
    grad_h = linear.backward(delta, needs, kept, grads, by)
    return grad_h, *reversed(grads)
