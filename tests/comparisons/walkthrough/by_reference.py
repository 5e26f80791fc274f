"""What the page must show, from manualbp.reference alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from comparisons.walkthrough.examples import Example
from manualbp import reference


def trained(e: Example, steps: int) -> reference.Network:
    """The example's network after so many updates; biases as the example has them."""
    network = e.network
    for _ in range(steps):
        network = _step(e, network)[2]
    return network


def values(e: Example, network: reference.Network) -> dict[str, float]:
    """x, y, w, b, then z, a, delta, C, gradients and updated parameters by the page's names."""
    activity, gradients, new, cost = _step(e, network)
    nodes = np.cumsum([0, *(a.shape[1] for a in activity.a)]).tolist()
    found = {"C": cost, "epsilon": e.epsilon}
    found |= {f"y_{nodes[-2] + 1 + n}": value for n, value in enumerate(e.y)}
    for layer, a in enumerate(activity.a):
        found |= {f"a_{nodes[layer] + 1 + n}": value for n, value in enumerate(a[0])}
    for layer, w in enumerate(network.weights):
        for n, row in enumerate(w):
            j = nodes[layer + 1] + 1 + n
            found[f"z_{j}"] = activity.z[layer + 1][0, n]
            found[f"delta_{j}"] = gradients.deltas[layer][0, n]
            if (b := network.biases[layer]) is not None:
                grad, after = gradients.biases[layer], new.biases[layer]
                assert grad is not None and after is not None
                found |= {f"b_{j}": b[n], f"dC/db_{j}": grad[n], f"new b_{j}": after[n]}
            for m, value in enumerate(row):
                name = f"w_{j}{nodes[layer] + 1 + m}"
                found |= {name: value, f"dC/d{name}": gradients.weights[layer][n, m],
                          f"new {name}": new.weights[layer][n, m]}  # fmt: skip
    return {key: float(value) for key, value in found.items()}


def known(e: Example, key: str, phase: str, layer: int | None) -> bool:
    """Whether the walk has come to this number: forward up the layers, cost, backward down."""
    name, _, node = key.rpartition("_")
    if name in ("w", "b", "y", ""):
        return key != "C" or phase in ("cost", "backward", "update")
    if name.startswith("new"):
        return phase == "update" and (e.train_biases or name == "new w")
    counts = [e.network.weights[0].shape[1], *(len(w) for w in e.network.weights)]
    own = int(node if name in ("a", "z", "delta", "dC/db") else node[0])
    at = next(i for i, end in enumerate(np.cumsum(counts)) if own <= end)
    if name in ("a", "z"):
        return at == 0 or phase not in ("input", "forward") or (layer or 0) >= at
    return phase == "update" or (phase == "backward" and (layer or 0) <= at)


def _step(
    e: Example, network: reference.Network
) -> tuple[reference.Activity, reference.Gradients, reference.Network, float]:
    activity = reference.forward(network, np.array([e.x]))
    cost, grad_output = reference.cost(activity.a[-1], np.array([e.y]), "mse")
    gradients = reference.backward(network, activity, grad_output)
    new = reference.update(network, gradients, e.epsilon)
    biases = new.biases if e.train_biases else network.biases
    return activity, gradients, replace(new, biases=biases), float(cost)
