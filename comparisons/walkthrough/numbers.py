"""Every number of one step of an example, with its formula and its value in each arm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.trace import Trace
from manualbp import reference

# float64 numbers of size 1, sums of at most 3 terms that round by 1.1e-16 each, 3 layers deep:
# 1e-14 leaves room, and a wrong or missing term is off by far more.
TOLERANCE = 1e-14


class Number(NamedTuple):
    """One number: its name, its formula, and its value in the three arms."""

    name: str
    formula: str
    numpy: float
    by_hand: float
    autograd: float

    @property
    def agrees(self) -> bool:
        """Whether both tensor arms are within ``TOLERANCE`` of NumPy's value."""
        apart = [abs(value - self.numpy) for value in (self.by_hand, self.autograd)]
        return all(a <= TOLERANCE for a in apart)  # false for NaN


def numbers(e: Example, *traces: Trace) -> Iterator[Number]:
    """All of them, in the order in which they are computed."""

    def number(name: str, formula: str, *values: float) -> Number:
        return Number(name, formula, *map(float, values))

    network, layers = e.network, list(nodes_by_layer(e.network))
    for i, (below, nodes) in enumerate(layers):
        for n, j in enumerate(nodes):
            terms = [f"w_{j}{k} a_{k}" for k in below]
            terms += [] if network.biases[i] is None else [f"b_{j}"]
            yield number(f"z_{j}", " + ".join(terms), *(t.z[i][n] for t in traces))
        for n, j in enumerate(nodes):
            yield number(f"a_{j}", f"f(z_{j})", *(t.a[i][n] for t in traces))
    yield number("C", "mean of (o - y)^2", *(t.cost for t in traces))
    for i, (_, nodes) in reversed(list(enumerate(layers))):
        above = layers[i + 1][1] if i + 1 < len(layers) else []
        for n, j in enumerate(nodes):
            upstream = " + ".join(f"delta_{k} w_{k}{j}" for k in above)
            formula = f"({upstream}) f'(z_{j})" if above else f"dC/da_{j} f'(z_{j})"
            yield number(f"delta_{j}", formula, *(t.deltas[i][n] for t in traces))
    for i, (below, nodes) in enumerate(layers):
        for n, j in enumerate(nodes):
            for m, k in enumerate(below):
                w, gradient = f"w_{j}{k}", f"dC/dw_{j}{k}"
                yield number(
                    gradient, f"delta_{j} a_{k}", *(t.grad_weights[i][n, m] for t in traces)
                )
                new = [t.new_weights[i][n, m] for t in traces]
                yield number(f"new {w}", f"{w} - epsilon {gradient}", *new)
            if network.biases[i] is not None:
                b, gradient = f"b_{j}", f"dC/db_{j}"
                yield number(gradient, f"delta_{j}", *(t.grad_biases[i][n] for t in traces))
                update = f"{b} - epsilon {gradient}" if e.train_biases else f"{b}, kept"
                yield number(f"new {b}", update, *(t.new_biases[i][n] for t in traces))


def nodes_by_layer(network: reference.Network) -> Iterator[tuple[list[int], list[int]]]:
    """Per layer: the numbers of the nodes below it and of its own, counted from input node 1."""
    first = 1
    for w in network.weights:
        nodes, below = w.shape
        yield list(range(first, first + below)), list(range(first + below, first + below + nodes))
        first += below
