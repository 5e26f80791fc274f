"""A network's derivatives by its input, and the gradients of a C of them, node by node.

    up    z_j    = sum_k w_jk a_k + b_j       a_j    = f(z_j)
          z_j,p  = sum_k w_jk a_k,p           a_j,p  = f' z_j,p
          z_j,pq = sum_k w_jk a_k,pq          a_j,pq = f' z_j,pq + f'' z_j,p z_j,q

    down  g, g_p, g_pq: dC by a_j, a_j,p, a_j,pq
          dC/dz_j,pq = f' g_pq
          dC/dz_j,p  = f' g_p + f'' sum_q (g_pq + g_qp) z_j,q
          dC/dz_j    = f' g + f'' (sum_p g_p z_j,p + sum_pq g_pq z_j,pq)
                       + f''' sum_pq g_pq z_j,p z_j,q
          dC/dw_jk   = sum_n (dC/dz_j a_k + sum_p dC/dz_j,p a_k,p + sum_pq dC/dz_j,pq a_k,pq)
          dC/db_j    = sum_n dC/dz_j

n point · j node of a layer, k node of the layer below · p, q lines x + t v_p through the point
,p: d/dt along line p; ,pq: the second derivative along p and q. Both are kept whole for every pair,
so a Laplacian is sum_p u_,pp with a cotangent g_pp alike for all p, and the pair (p, q) is u_,pq.

The same rules as in network.py: sums written out, no code of the tensor side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from manualbp.reference.functions import ACTIVATIONS
from manualbp.reference.network import Array, Network


class Derived(NamedTuple):
    """A quantity (N, J) of J nodes with its first (N, J, P) and second (N, J, P, P) derivatives.

    Also dC by each of them.
    """

    value: Array
    first: Array
    second: Array


class Climb(NamedTuple):
    """z[l], a[l]; index 0 is the input, with z[0] = a[0]. a[-1] is the output."""

    z: list[Derived]
    a: list[Derived]


class Slopes(NamedTuple):
    """dC/dx (N, I), and per layer dC/dw (O, I), dC/db (O,) or None."""

    input: Array
    weights: list[Array]
    biases: list[Array | None]


def derive(network: Network, x: Array, lines: Array | None = None) -> Climb:
    """u, its first and second derivatives along ``lines`` (P, I), by default the axes."""
    inputs = network.weights[0].shape[1]
    v = np.eye(inputs) if lines is None else lines
    if x.ndim != 2 or x.shape[1] != inputs or v.ndim != 2 or v.shape[1] != inputs:
        raise ValueError(f"x and lines must be (N, {inputs}), got {x.shape} and {v.shape}")
    below = _zeros(len(x), inputs, len(v))
    below.value[:] = x
    for n, k, p in np.ndindex(below.first.shape):
        below.first[n, k, p] = v[p, k]
    climb = Climb([below], [below])
    for w, b, name in zip(network.weights, network.biases, network.activations, strict=True):
        z = _product(w, b, climb.a[-1])
        climb.z.append(z)
        climb.a.append(_activated(name, z))
    return climb


def descend(network: Network, climb: Climb, grads: Derived) -> Slopes:
    """dC/dw, dC/db, dC/dx, from dC by u, its first and its second derivatives."""
    weights: list[Array] = []
    biases: list[Array | None] = []
    layers = list(zip(network.weights, network.biases, network.activations, strict=True))
    for number in range(len(layers), 0, -1):
        w, b, name = layers[number - 1]
        delta, below = _slope(name, climb.z[number], grads), climb.a[number - 1]
        grad_w, grad_b = np.zeros(w.shape), np.zeros(len(w))
        points, lines = range(len(delta.value)), range(delta.first.shape[2])
        for j in range(w.shape[0]):
            grad_b[j] = sum(delta.value[n, j] for n in points)
            for k in range(w.shape[1]):
                grad_w[j, k] = sum(
                    delta.value[n, j] * below.value[n, k]
                    + sum(delta.first[n, j, p] * below.first[n, k, p] for p in lines)
                    + sum(
                        delta.second[n, j, p, q] * below.second[n, k, p, q]
                        for p in lines
                        for q in lines
                    )
                    for n in points
                )
        weights.insert(0, grad_w)
        biases.insert(0, None if b is None else grad_b)
        grads = _product(np.transpose(w), None, delta)
    return Slopes(grads.value, weights, biases)


def _product(w: Array, b: Array | None, a: Derived) -> Derived:
    """z_j = sum_k w_jk a_k + b_j and its derivatives; with w_kj it is the way back."""
    z, nodes = _zeros(len(a.value), len(w), a.first.shape[2]), range(w.shape[1])
    for n, j in np.ndindex(z.value.shape):
        z.value[n, j] = sum(w[j, k] * a.value[n, k] for k in nodes) + (0.0 if b is None else b[j])
    for n, j, p in np.ndindex(z.first.shape):
        z.first[n, j, p] = sum(w[j, k] * a.first[n, k, p] for k in nodes)
    for n, j, p, q in np.ndindex(z.second.shape):
        z.second[n, j, p, q] = sum(w[j, k] * a.second[n, k, p, q] for k in nodes)
    return z


def _activated(name: str, z: Derived) -> Derived:
    """a = f(z) and its derivatives."""
    f, df, ddf, _ = ACTIVATIONS[name]
    a = _zeros(*z.first.shape)
    for n, j in np.ndindex(z.value.shape):
        a.value[n, j] = f(float(z.value[n, j]))
    for n, j, p in np.ndindex(z.first.shape):
        a.first[n, j, p] = df(float(z.value[n, j])) * z.first[n, j, p]
    for n, j, p, q in np.ndindex(z.second.shape):
        at, pair = float(z.value[n, j]), z.first[n, j, p] * z.first[n, j, q]
        a.second[n, j, p, q] = df(at) * z.second[n, j, p, q] + ddf(at) * pair
    return a


def _slope(name: str, z: Derived, g: Derived) -> Derived:
    """dC by z and its derivatives, from g by a and its derivatives."""
    _, df, ddf, dddf = ACTIVATIONS[name]
    delta = _zeros(*z.first.shape)
    for n, j in np.ndindex(z.value.shape):
        delta.value[n, j] = df(float(z.value[n, j])) * g.value[n, j]
    for n, j, p in np.ndindex(z.first.shape):
        at = float(z.value[n, j])
        delta.first[n, j, p] = df(at) * g.first[n, j, p]
        delta.value[n, j] += ddf(at) * g.first[n, j, p] * z.first[n, j, p]
    for n, j, p, q in np.ndindex(z.second.shape):
        at, g_pq = float(z.value[n, j]), g.second[n, j, p, q]
        delta.second[n, j, p, q] = df(at) * g_pq
        delta.first[n, j, p] += ddf(at) * (g_pq + g.second[n, j, q, p]) * z.first[n, j, q]
        delta.value[n, j] += ddf(at) * g_pq * z.second[n, j, p, q]
        delta.value[n, j] += dddf(at) * g_pq * z.first[n, j, p] * z.first[n, j, q]
    return delta


def _zeros(points: int, nodes: int, lines: int) -> Derived:
    shape = (points, nodes, lines)
    return Derived(np.zeros(shape[:2]), np.zeros(shape), np.zeros((*shape, lines)))
