"""f with f', f'' and f''', and C with dC/do, one number at a time.

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


def _sigmoid(z: float) -> tuple[float, float, float]:
    """s', s'' and s''' from s and 1 - s."""
    s, rest = sigmoid(z), sigmoid(-z)
    return s * rest, s * rest * (rest - s), s * rest * (rest**2 - 4 * s * rest + s**2)


def _tanh(u: float) -> tuple[float, float, float, float]:
    """t = tanh u with t', t'' and t'''."""
    t = math.tanh(u)
    rest = 1 - t * t
    return t, rest, -2 * t * rest, 4 * t * t * rest - 2 * rest * rest


def _t(z: float) -> tuple[float, float, float, float]:
    """t = tanh u(z) with its derivatives in z; u = k (z + c z^3)."""
    t, d, dd, ddd = _tanh(_K * (z + _C * z**3))
    u1, u2, u3 = _K * (1 + 3 * _C * z * z), 6 * _K * _C * z, 6 * _K * _C
    return t, d * u1, d * u2 + dd * u1**2, d * u3 + 3 * dd * u1 * u2 + ddd * u1**3


def _zero(z: float) -> float:
    return 0.0


class Activation(NamedTuple):
    """f, f', f'' and f''', all at z."""

    f: Callable[[float], float]
    df: Callable[[float], float]
    ddf: Callable[[float], float] = _zero
    dddf: Callable[[float], float] = _zero


# Parameters are torch.nn's defaults; at a kink the slopes are those PyTorch takes.
ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda z: 1.0),
    "sigmoid": Activation(
        sigmoid, lambda z: _sigmoid(z)[0], lambda z: _sigmoid(z)[1], lambda z: _sigmoid(z)[2]
    ),
    "tanh": Activation(
        math.tanh, lambda z: _tanh(z)[1], lambda z: _tanh(z)[2], lambda z: _tanh(z)[3]
    ),
    "relu": Activation(lambda z: max(z, 0.0), lambda z: 1.0 if z > 0 else 0.0),
    "leaky_relu": Activation(lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": Activation(
        lambda z: z if z > 0 else math.expm1(z), lambda z: 1.0 if z > 0 else math.exp(z),
        lambda z: 0.0 if z >= 0 else math.exp(z), lambda z: 0.0 if z >= 0 else math.exp(z),
    ),
    "selu": Activation(
        lambda z: _SCALE * (z if z > 0 else _ALPHA * math.expm1(z)),
        lambda z: _SCALE * (1.0 if z > 0 else _ALPHA * math.exp(z)),
        lambda z: 0.0 if z >= 0 else _SCALE * _ALPHA * math.exp(z),
        lambda z: 0.0 if z >= 0 else _SCALE * _ALPHA * math.exp(z),
    ),
    "gelu": Activation(
        lambda z: z * _cdf(z), lambda z: _cdf(z) + z * _pdf(z),
        lambda z: (2 - z * z) * _pdf(z), lambda z: (z**3 - 4 * z) * _pdf(z),
    ),
    "gelu_tanh": Activation(
        lambda z: z * (1 + _t(z)[0]) / 2, lambda z: (1 + _t(z)[0] + z * _t(z)[1]) / 2,
        lambda z: _t(z)[1] + z * _t(z)[2] / 2, lambda z: (3 * _t(z)[2] + z * _t(z)[3]) / 2,
    ),
    "silu": Activation(
        lambda z: z * sigmoid(z), lambda z: sigmoid(z) + z * _sigmoid(z)[0],
        lambda z: 2 * _sigmoid(z)[0] + z * _sigmoid(z)[1],
        lambda z: 3 * _sigmoid(z)[1] + z * _sigmoid(z)[2],
    ),
    "softplus": Activation(
        lambda z: z if z > 20 else softplus(z), lambda z: 1.0 if z > 20 else sigmoid(z),
        lambda z: 0.0 if z >= 20 else _sigmoid(z)[0], lambda z: 0.0 if z >= 20 else _sigmoid(z)[1],
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
