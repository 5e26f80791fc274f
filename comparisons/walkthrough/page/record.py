"""What the page knows, as JSON: every number of the walk at every step that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.numbers import Number, nodes_by_layer, numbers
from comparisons.walkthrough.page.story import elements, stages
from comparisons.walkthrough.trace import by_autograd, by_hand, by_numpy
from comparisons.walkthrough.written import expanded, long, operands, short, symbols
from manualbp import reference

# What is known from the start, by the first letter of its name.
GIVEN = {"a": "an input", "y": "a target", "w": "a weight", "b": "a bias", "e": "the learning rate"}


def at(e: Example, network: reference.Network) -> list[Number]:
    """All numbers of one step from these weights, in three arms."""
    now = replace(e, network=network)
    return list(numbers(now, by_numpy(now), by_hand(now), by_autograd(now)))


def values(e: Example, network: reference.Network, found: list[Number]) -> dict[str, float]:
    """Every number by its name: x, y, epsilon, the weights and biases, and what is computed."""
    layers = list(nodes_by_layer(network))
    known = {"epsilon": e.epsilon}
    known |= {f"a_{j}": value for j, value in zip(layers[0][0], e.x, strict=True)}
    known |= {f"y_{j}": value for j, value in zip(layers[-1][1], e.y, strict=True)}
    for (below, nodes), w, b in zip(layers, network.weights, network.biases, strict=True):
        for n, j in enumerate(nodes):
            known |= {f"w_{j}{k}": float(w[n, m]) for m, k in enumerate(below)}
            known |= {} if b is None else {f"b_{j}": float(b[n])}
    return known | {number.name: number.by_hand for number in found}


def record(
    e: Example, kept: Mapping[int, reference.Network], found: Mapping[int, list[Number]]
) -> dict[str, Any]:
    """One network: its stages, formulas and elements, and its numbers at each kept step."""
    told = list(stages(e))
    stops: list[dict[str, Any]] = []
    for step, network in kept.items():
        known = values(e, network, found[step])
        texts = {form.__name__: {key: form(value) for key, value in known.items()}
                 for form in (short, long)}  # fmt: skip
        said = f"After {step:,} update{'s' * (step != 1)}" if step else "Before the first update"
        stops.append({"step": step, "said": said, **texts})
    computed = {key: number for number, stage in enumerate(told) for key in stage.keys}
    return {
        "name": e.name,
        "stages": [asdict(stage) for stage in told],
        # The stage from which each number is known; a bias that is not trained gets no new one.
        "known": {key: computed.get(key, len(told) if key.startswith("new") else 0)
                  for key in stops[0]["short"]},
        "formulas": formulas(e, found[0]),
        "elements": elements(e),
        "stops": stops,
    }  # fmt: skip


def formulas(e: Example, found: list[Number]) -> dict[str, dict[str, Any]]:
    """By name: the formula in symbols, short and written out, and with its operands."""
    outputs = list(nodes_by_layer(e.network))[-1][1]
    written: dict[str, dict[str, Any]] = {}
    for key in values(e, e.network, []):
        written[key] = {"symbols": [f"{symbols(key)}: {GIVEN[key[0]]}"], "numbers": ""}
    for number in found:
        out = expanded(number.formula, outputs)
        lines = [f"{symbols(number.name)} = {symbols(number.formula)}", f"= {symbols(out)}"]
        kept = number.formula.endswith(", kept")
        written[number.name] = {
            "symbols": lines if out != number.formula else lines[:1],
            "numbers": "" if kept else operands(out),
        }
    return written
