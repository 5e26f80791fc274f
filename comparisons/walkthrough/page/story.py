"""The walk through one step: what becomes known when, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.numbers import nodes_by_layer
from comparisons.walkthrough.written import short


@dataclass(frozen=True)
class Stage:
    """A place of the walk: the numbers that it computes, and the elements that light up."""

    phase: str  # input, forward, cost, backward, update
    layer: int | None
    title: str
    rule: str
    words: str
    keys: list[str] = field(default_factory=list)
    lit: list[str] = field(default_factory=list)


INPUT = (
    "The sample enters. Weights w and biases b are there from the start; y is what should come out."
)
FORWARD = (
    "Each node adds up what comes in, times its weight, and its bias. "
    "Then f puts the sum between 0 and 1."
)
COST = (
    "One number says how far the output is from y. To make it smaller, every weight needs to know "
    "its slope ∂C/∂w."
)
LAST = (
    "δ is the slope of C in z: the slope of C in the output, times the slope of f, a (1 − a). "
    "A weight's slope is then a product of two known numbers: δ above it and a below it."
)
HIDDEN = (
    "A node below gets each δ above back through the same weight, adds them up, and multiplies by "
    "its own slope a (1 − a). That is all of backpropagation: the same for every layer."
)
UPDATE = (
    "Every weight goes a small way against its slope: ε times as far. Then it all begins again, "
    "with the new weights."
)


def stages(e: Example) -> Iterator[Stage]:
    """Input, forward layer by layer, cost, backward layer by layer, update."""
    layers = list(nodes_by_layer(e.network))
    inputs, outputs, last = layers[0][0], layers[-1][1], len(layers)
    wires = [[f"w_{j}{k}" for j in nodes for k in below] for below, nodes in layers]
    biases = [[] if b is None else [f"b_{j}" for j in nodes]
              for b, (_, nodes) in zip(e.network.biases, layers, strict=True)]  # fmt: skip
    yield Stage("input", None, "The input", "a = x", INPUT,
                [f"a_{j}" for j in inputs], [f"node_{j}" for j in inputs])  # fmt: skip
    for layer, (_, nodes) in enumerate(layers, start=1):
        keys = [f"{name}_{j}" for j in nodes for name in "za"]
        lit = [*wires[layer - 1], *(f"node_{j}" for j in nodes)]
        title = f"Forward, layer {layer} of {last}"
        yield Stage("forward", layer, title, "z = Σ w a + b,  a = f(z)", FORWARD, keys, lit)
    n = len(outputs)
    rule = "C = (o − y)²" if n == 1 else f"C = Σ (o − y)² / {n}"
    yield Stage("cost", None, "The cost", rule, COST, ["C"],
                ["cost", *(f"node_{j}" for j in outputs)])  # fmt: skip
    for layer, (_, nodes) in reversed(list(enumerate(layers, start=1))):
        rule = "δ = ∂C/∂a f′(z)" if layer == last else "δ = (Σ δ w) f′(z)"
        gradients = [f"dC/d{name}" for name in (*wires[layer - 1], *biases[layer - 1])]
        above = ["cost"] if layer == last else wires[layer]
        title = f"Backward, layer {layer} of {last}"
        yield Stage("backward", layer, title, f"{rule},  ∂C/∂w = δ a,  ∂C/∂b = δ",
                    LAST if layer == last else HIDDEN,
                    [*(f"delta_{j}" for j in nodes), *gradients],
                    [*above, *wires[layer - 1], *(f"node_{j}" for j in nodes)])  # fmt: skip
    every = [name for both in zip(wires, biases, strict=True) for each in both for name in each]
    trained = [name for name in every if e.train_biases or name.startswith("w")]
    rule = f"w ← w − ε ∂C/∂w,  ε = {short(e.epsilon)}"
    yield Stage("update", None, "The update", rule, UPDATE,
                [f"new {name}" for name in trained],
                [name for each in wires for name in each])  # fmt: skip


def elements(e: Example) -> dict[str, list[str]]:
    """The numbers of every node and edge, in the order in which they become known."""
    found = {f"node_{j}": [f"a_{j}"] for j in next(nodes_by_layer(e.network))[0]}
    for (below, nodes), b in zip(nodes_by_layer(e.network), e.network.biases, strict=True):
        for j in nodes:
            found |= {f"w_{j}{k}": _changed(f"w_{j}{k}") for k in below}
            given, *learned = _changed(f"b_{j}") if b is not None else [""]
            keys = [given, f"z_{j}", f"a_{j}", f"delta_{j}", *learned]
            found[f"node_{j}"] = [key for key in keys if key]
    return found | {"cost": ["C"]}


def _changed(name: str) -> list[str]:
    return [name, f"dC/d{name}", f"new {name}"]
