"""Losses as the kernels compute them: each error's cost and dC/do side by side, in float32.

o and y of a tile (ROWS, O); for cross-entropy y is a class index for each row. Nothing is divided
by the number of errors here. Gradients are linear in delta, so their sums are divided once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl

from manualbp.fast.gpu.kernels.scalar import exp, log, log1p, sigmoid
from manualbp.maths import losses
from manualbp.maths.cross_entropy import CrossEntropy


class LossCode(NamedTuple):
    """A loss as arguments of a kernel."""

    name: str
    p: float = 0.0
    ignored: int = 0  # a class index


CODES: dict[type[losses.Loss], Callable[[Any], LossCode]] = {
    losses.MSE: lambda c: LossCode("mse"),
    losses.L1: lambda c: LossCode("l1"),
    losses.Huber: lambda c: LossCode("huber", c.delta),
    losses.SmoothL1: lambda c: LossCode("smooth_l1", c.beta) if c.beta > 0 else LossCode("l1"),
    losses.BCEWithLogits: lambda c: LossCode("bce"),
    CrossEntropy: lambda c: LossCode("cross_entropy", c.label_smoothing, c.ignore_index),
}


def code(loss: losses.Loss) -> LossCode | None:
    """The loss as arguments of a kernel; None where no kernel computes it, as with weights."""
    if type(loss) not in CODES or loss.weights:
        return None
    return CODES[type(loss)](loss)


@triton.jit
def elementwise(o, y, C: tl.constexpr, p: tl.constexpr):
    """The cost of every error, and dC/do."""
    e = o - y
    size = tl.abs(e)
    sign = tl.where(e > 0, 1.0, tl.where(e < 0, -1.0, e))  # NaN stays NaN
    if C == "mse":
        cost = e * e
        delta = 2.0 * e
    elif C == "l1":
        cost = size
        delta = sign
    elif C == "huber":
        cost = tl.where(size < p, 0.5 * e * e, p * (size - 0.5 * p))
        delta = tl.where(size < p, e, p * sign)
    elif C == "smooth_l1":
        cost = tl.where(size < p, 0.5 * e * e / p, size - 0.5 * p)
        delta = tl.where(size < p, e / p, sign)
    else:
        cost = tl.where(o > 0, o, 0.0) - o * y + log1p(exp(-tl.abs(o)))
        delta = sigmoid(o) - y
    return cost, delta


@triton.jit
def cross_entropy(o, y, columns, O: tl.constexpr, smoothing: tl.constexpr):
    """-sum_c q_c log p_c of every row, and p - q;  q = (1 - e) [c = y] + e / O.

    A class outside 0..O-1 gives NaN, since a kernel cannot raise an error.
    """
    real = (columns < O)[None, :]
    largest = tl.max(tl.where(real, o, float("-inf")), 1)[:, None]
    powers = tl.where(real, exp(o - largest), 0.0)
    total = tl.sum(powers, 1)[:, None]
    known = (y >= 0) & (y < O)
    total = tl.where(known[:, None], total, float("nan"))
    hit = (columns[None, :] == y[:, None]).to(tl.float32)
    q = tl.where(real, (1.0 - smoothing) * hit + smoothing / O, 0.0)
    log_p = o - largest - log(total)
    cost = tl.sum(tl.where(q > 0, -q * log_p, 0.0), 1)  # where q = 0, p may be 0
    return tl.where(known, cost, float("nan")), powers / total - q
