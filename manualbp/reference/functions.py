"""f with f', and C with dC/do, one number at a time; network.py uses them.

z a node's input · o one row of the output, y its target · j, c node of the output layer

Written from the definitions in torch.nn's documentation, with Python's math functions, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

Numbers = Sequence[float]


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z), in the form whose exponent is never positive."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def softplus(z: float) -> float:
    """log(1 + e^z), in the form whose exponent is never positive."""
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def _cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def _pdf(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


_K, _C = math.sqrt(2 / math.pi), 0.044715  # of GELU's tanh form
_SCALE, _ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717  # of SELU


def _u(z: float) -> float:
    return math.tanh(_K * (z + _C * z**3))


class Activation(NamedTuple):
    """f and f', both at z."""

    f: Callable[[float], float]
    df: Callable[[float], float]


# Parameters are torch.nn's defaults; at a kink the slope is the one PyTorch takes.
ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda z: 1.0),
    "sigmoid": Activation(sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": Activation(math.tanh, lambda z: 1 - math.tanh(z) ** 2),
    "relu": Activation(lambda z: max(z, 0.0), lambda z: 1.0 if z > 0 else 0.0),
    "leaky_relu": Activation(lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": Activation(
        lambda z: z if z > 0 else math.expm1(z), lambda z: 1.0 if z > 0 else math.exp(z)
    ),
    "selu": Activation(
        lambda z: _SCALE * (z if z > 0 else _ALPHA * math.expm1(z)),
        lambda z: _SCALE * (1.0 if z > 0 else _ALPHA * math.exp(z)),
    ),
    "gelu": Activation(lambda z: z * _cdf(z), lambda z: _cdf(z) + z * _pdf(z)),
    "gelu_tanh": Activation(
        lambda z: z * (1 + _u(z)) / 2,
        lambda z: (1 + _u(z)) / 2 + z / 2 * (1 - _u(z) ** 2) * _K * (1 + 3 * _C * z * z),
    ),
    "silu": Activation(
        lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z)))
    ),
    "softplus": Activation(
        lambda z: z if z > 20 else softplus(z), lambda z: 1.0 if z > 20 else sigmoid(z)
    ),
    "hardtanh": Activation(
        lambda z: min(max(z, -1.0), 1.0), lambda z: 1.0 if -1 < z < 1 else 0.0
    ),
}  # fmt: skip


class Row(NamedTuple):
    """What one sample adds to a cost: errors, their slopes in o, and its share of the mean's n."""

    errors: list[float]
    slopes: list[float]
    share: float


def mse(o: Numbers, y: Numbers) -> Row:
    """C_j = (o_j - y_j)^2,  dC/do_j = 2 (o_j - y_j)."""
    e = _differences(o, y)
    return Row([e_j**2 for e_j in e], [2 * e_j for e_j in e], len(e))


def l1(o: Numbers, y: Numbers) -> Row:
    """C_j = |o_j - y_j|,  dC/do_j = sign(o_j - y_j)."""
    e = _differences(o, y)
    return Row([abs(e_j) for e_j in e], [float((e_j > 0) - (e_j < 0)) for e_j in e], len(e))


def huber(o: Numbers, y: Numbers, delta: float = 1.0) -> Row:
    """C_j = e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2);  dC/do_j = clip(e)."""
    e = _differences(o, y)
    errors = [e_j**2 / 2 if abs(e_j) <= delta else delta * (abs(e_j) - delta / 2) for e_j in e]
    return Row(errors, [min(max(e_j, -delta), delta) for e_j in e], len(e))


def smooth_l1(o: Numbers, y: Numbers, beta: float = 1.0) -> Row:
    """The Huber loss with delta = beta, over beta; the L1 loss for beta = 0."""
    if beta == 0:
        return l1(o, y)
    errors, slopes, share = huber(o, y, beta)
    return Row([e_j / beta for e_j in errors], [s_j / beta for s_j in slopes], share)


def bce_with_logits(
    o: Numbers, y: Numbers, weight: Numbers | None = None, pos_weight: Numbers | None = None
) -> Row:
    """C_j = -w [p y log s + (1 - y) log(1 - s)],  dC/do_j = w [(1 - y) s - p y (1 - s)]."""
    ones = [1.0] * len(o)
    errors, slopes = [], []
    for o_j, y_j, w, p in zip(o, y, weight or ones, pos_weight or ones, strict=True):
        errors.append(w * (p * y_j * softplus(-o_j) + (1 - y_j) * softplus(o_j)))
        slopes.append(w * ((1 - y_j) * sigmoid(o_j) - p * y_j * sigmoid(-o_j)))
    return Row(errors, slopes, len(o))


def cross_entropy(
    o: Numbers,
    y: Numbers | int,
    weight: Numbers | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Row:
    """C = -sum_c w_c q_c log p_c,  dC/do_j = p_j sum_c w_c q_c - w_j q_j,  p = softmax(o)."""
    classes = range(len(o))
    w = weight or [1.0] * len(o)
    if isinstance(y, int):
        target = [float(c == y) for c in classes]
        share = w[y] if y != ignore_index else 0.0
    else:
        target, share = list(y), 1.0
    q = [(1 - label_smoothing) * t_c + label_smoothing / len(o) for t_c in target]
    if y == ignore_index:
        q = [0.0] * len(o)
    top = max(o)
    log_sum = top + math.log(sum(math.exp(o_c - top) for o_c in o))
    p = [math.exp(o_c - log_sum) for o_c in o]
    error = sum(w[c] * q[c] * (log_sum - o[c]) for c in classes)
    total = sum(w[c] * q[c] for c in classes)
    return Row([error], [p[j] * total - w[j] * q[j] for j in classes], share)


LOSSES: dict[str, Callable[..., Row]] = {
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "smooth_l1": smooth_l1,
    "bce_with_logits": bce_with_logits,
    "cross_entropy": cross_entropy,
}


def _differences(o: Numbers, y: Numbers) -> list[float]:
    return [o_j - y_j for o_j, y_j in zip(o, y, strict=True)]
