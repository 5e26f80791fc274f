"""The oracle: the article's equations in NumPy float64, one node at a time, sums written out.

    z_j^l      = sum_k w_jk^l a_k^{l-1} + b_j^l          a_j^l = f(z_j^l)
    delta_j^L  = dC/do_j f'(z_j^L)
    delta_j^l  = (sum_i delta_i^{l+1} w_ij^{l+1}) f'(z_j^l)
    dC/dw_jk^l = sum_n delta_j^l a_k^{l-1}               dC/db_j^l = sum_n delta_j^l
    w         <- w - epsilon dC/dw

n sample · l = 1..L layer, a^0 = x the input, o = a^L the output
j node of layer l · k node of the layer below · i node of the layer above

Slow and literal on purpose: it shares no code with the tensor side and needs only numpy, so it
does not repeat a mistake made there. f, f' and C come from functions.py. Source: the article's
section on networks with several nodes per layer; Nielsen ch. 2, BP1-BP4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manualbp.reference.functions import ACTIVATIONS, LOSSES

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """w^l (O, I), b^l (O,) or None, and the name of f for every layer l.

    Raises:
        ValueError: lists of different lengths, shapes that do not chain, an unknown activation.
    """

    weights: Sequence[Array]
    biases: Sequence[Array | None]
    activations: Sequence[str]

    def __post_init__(self) -> None:
        lengths = len(self.weights), len(self.biases), len(self.activations)
        if not self.weights or len(set(lengths)) > 1:
            raise ValueError(
                f"expected one weight, bias and activation per layer, got {lengths}; "
                "use None for a layer without bias"
            )
        below = self.weights[0].shape[-1]
        layers = zip(self.weights, self.biases, self.activations, strict=True)
        for number, (w, b, name) in enumerate(layers, start=1):
            if w.ndim != 2 or w.shape[1] != below or (b is not None and b.shape != w.shape[:1]):
                raise ValueError(
                    f"layer {number}: expected w (O, {below}) and b (O,), got {w.shape} and "
                    f"{None if b is None else b.shape}; w has a row per node, a column per input"
                )
            if name not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ValueError(f"layer {number}: activation must be one of {known}, got {name!r}")
            below = w.shape[0]


class Activity(NamedTuple):
    """z[l], a[l], each (N, nodes); index 0 is the input: z[0] = a[0] = x."""

    z: list[Array]
    a: list[Array]


class Gradients(NamedTuple):
    """dC/dx (N, I), and per layer delta (N, O), dC/dw (O, I), dC/db (O,) or None."""

    input: Array
    deltas: list[Array]
    weights: list[Array]
    biases: list[Array | None]


def forward(network: Network, x: Array) -> Activity:
    """z_j^l = sum_k w_jk^l a_k^{l-1} + b_j^l,  a_j^l = f(z_j^l), for x (N, I)."""
    inputs = network.weights[0].shape[1]
    if x.ndim != 2 or x.shape[1] != inputs:
        raise ValueError(f"x must be (N, {inputs}), got {x.shape}; one row per sample")
    activity = Activity([x], [x])
    for w, b, name in zip(network.weights, network.biases, network.activations, strict=True):
        f, below = ACTIVATIONS[name].f, activity.a[-1]
        z, a = np.zeros((len(x), len(w))), np.zeros((len(x), len(w)))
        for n in range(len(x)):
            for j in range(len(w)):
                z[n, j] = sum(w[j, k] * below[n, k] for k in range(w.shape[1]))
                z[n, j] += 0.0 if b is None else b[j]
                a[n, j] = f(float(z[n, j]))
        activity.z.append(z)
        activity.a.append(a)
    return activity


def backward(network: Network, activity: Activity, grad_output: Array) -> Gradients:
    """delta_j^l = (sum_i delta_i^{l+1} w_ij^{l+1}) f'(z_j^l), from dC/do (N, O)."""
    samples = range(len(grad_output))
    deltas: list[Array] = []
    weights: list[Array] = []
    biases: list[Array | None] = []
    upstream = grad_output  # dC/da of this layer: dC/do, then sum_i delta_i w_ij
    layers = list(zip(network.weights, network.biases, network.activations, strict=True))
    for w, b, name in reversed(layers):
        number = len(layers) - len(deltas)
        df, z, below = ACTIVATIONS[name].df, activity.z[number], activity.a[number - 1]
        nodes, nodes_below = range(w.shape[0]), range(w.shape[1])
        delta, grad_a = np.zeros(z.shape), np.zeros(below.shape)
        grad_w, grad_b = np.zeros(w.shape), np.zeros(len(w))
        for n in samples:
            for j in nodes:
                delta[n, j] = upstream[n, j] * df(float(z[n, j]))
        for j in nodes:
            grad_b[j] = sum(delta[n, j] for n in samples)
            for k in nodes_below:
                grad_w[j, k] = sum(delta[n, j] * below[n, k] for n in samples)
        for n in samples:
            for k in nodes_below:
                grad_a[n, k] = sum(delta[n, i] * w[i, k] for i in nodes)
        deltas.insert(0, delta)
        weights.insert(0, grad_w)
        biases.insert(0, None if b is None else grad_b)
        upstream = grad_a
    return Gradients(upstream, deltas, weights, biases)


def update(network: Network, gradients: Gradients, epsilon: float) -> Network:
    """w <- w - epsilon dC/dw,  b <- b - epsilon dC/db; returns a new network."""
    weights = [w - epsilon * g for w, g in zip(network.weights, gradients.weights, strict=True)]
    biases = [
        None if b is None or g is None else b - epsilon * g
        for b, g in zip(network.biases, gradients.biases, strict=True)
    ]
    return Network(weights, biases, network.activations)


def cost(
    o: Array, y: NDArray[Any], loss: str, reduction: str = "mean", **options: Any
) -> tuple[Array, Array]:
    """C(o, y) and dC/do (N, O), for the outputs o (N, O) of N samples.

    C is a number for the reductions "mean" and "sum"; for "none" it is one number per error,
    (N, O) or for ``cross_entropy`` (N,), and dC/do is each error's own derivative.

    Args:
        o: the output.
        y: the target, like o; for ``cross_entropy`` also class indices (N,).
        loss: a key of ``functions.LOSSES``.
        reduction: "mean", "sum" or "none".
        options: torch.nn's: delta, beta, weight, pos_weight, ignore_index, label_smoothing.
    """
    lists = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in options.items()}
    rows = [
        LOSSES[loss](o_n, y_n, **lists) for o_n, y_n in zip(o.tolist(), y.tolist(), strict=True)
    ]
    errors = np.array([row.errors for row in rows])
    slopes = np.array([row.slopes for row in rows])
    if reduction == "none":
        return errors[:, 0] if loss == "cross_entropy" else errors, slopes
    count = sum(row.share for row in rows) if reduction == "mean" else 1
    return np.asarray(sum(sum(row.errors) for row in rows) / count), slopes / count
