"""The article, number by number: every z, a, delta, gradient and updated weight, three times over.

NumPy computes them node by node with the sums written out; "by hand" are the tensor formulas of
manualbp (z, a, delta), its Function and its GradientDescent (gradients, update); autograd is
PyTorch. Then the loop runs until the cost is small, and a deep network shows gradients vanish.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

import manualbp
from comparisons import cli
from comparisons.examples import EXAMPLES, Example
from comparisons.trace import (
    Trace,
    by_autograd,
    by_hand,
    by_numpy,
    linears,
    modules,
    sample,
    trained,
)
from manualbp import reference
from manualbp.parity.cli import options
from manualbp.parity.reports.charts import GRADIENT_NORM
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.reports.words import scientific

# float64 numbers of size 1, sums of at most 3 terms with a rounding of 1.1e-16 each, 3 layers deep:
# 1e-14 leaves room, and a wrong or missing term is off by far more.
TOLERANCE = 1e-14
COST = "cost"
# The networks in which gradients vanish, or not: activation and folder.
DEEP = {"sigmoid": "deep-sigmoid", "relu": "deep-relu"}
DEPTH, WIDTH = 12, 16


class Row(NamedTuple):
    """One number: its name, its formula, and its value in the three arms."""

    name: str
    formula: str
    numpy: float
    by_hand: float
    autograd: float

    @property
    def agrees(self) -> bool:
        """Whether both tensor arms meet NumPy's value within ``TOLERANCE``."""
        apart = [abs(value - self.numpy) for value in (self.by_hand, self.autograd)]
        return all(a <= TOLERANCE for a in apart)  # false for NaN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the curves go."""
    options.add_run_arguments(parser, "walkthrough")


def run(args: argparse.Namespace) -> int:
    """Print the tables and log the curves; 0 when all agree, 1 otherwise."""
    name = args.run_name or options.stamped("walkthrough")
    folders = [*(e.name for e in EXAMPLES), *DEEP.values()]
    agree = True
    with cli.new_run(args.log_dir, name, folders) as log:
        for e in EXAMPLES:
            rows = list(numbers(e, by_numpy(e), by_hand(e), by_autograd(e)))
            show(e, rows)
            costs = descend(e, log)
            agree &= all(row.agrees for row in rows) & figures_come_out(e, rows, costs)
        vanishing(log)
    print("all agree" if agree else "something DIFFERS")
    print(options.tensorboard_hint(log.path))
    return 0 if agree else 1


def numbers(e: Example, *traces: Trace) -> Iterator[Row]:
    """Every number of one step with its formula, in the order in which they are computed."""

    def row(name: str, formula: str, *values: float) -> Row:
        return Row(name, formula, *map(float, values))

    network, layers = e.network, list(_nodes(e.network))
    for i, (below, nodes) in enumerate(layers):
        for n, j in enumerate(nodes):
            terms = [f"w_{j}{k} a_{k}" for k in below]
            terms += [] if network.biases[i] is None else [f"b_{j}"]
            yield row(f"z_{j}", " + ".join(terms), *(t.z[i][n] for t in traces))
        for n, j in enumerate(nodes):
            yield row(f"a_{j}", f"f(z_{j})", *(t.a[i][n] for t in traces))
    yield row("C", "mean of (o - y)^2", *(t.cost for t in traces))
    for i, (_, nodes) in reversed(list(enumerate(layers))):
        above = layers[i + 1][1] if i + 1 < len(layers) else []
        for n, j in enumerate(nodes):
            upstream = " + ".join(f"delta_{k} w_{k}{j}" for k in above)
            formula = f"({upstream}) f'(z_{j})" if above else f"dC/da_{j} f'(z_{j})"
            yield row(f"delta_{j}", formula, *(t.deltas[i][n] for t in traces))
    for i, (below, nodes) in enumerate(layers):
        for n, j in enumerate(nodes):
            for m, k in enumerate(below):
                w = f"w_{j}{k}"
                yield row(
                    f"dC/d{w}", f"delta_{j} a_{k}", *(t.grad_weights[i][n, m] for t in traces)
                )
                yield row(f"new {w}", f"{w} - epsilon dC/d{w}",
                          *(t.new_weights[i][n, m] for t in traces))  # fmt: skip
            if network.biases[i] is not None:
                b = f"b_{j}"
                yield row(f"dC/d{b}", f"delta_{j}", *(t.grad_biases[i][n] for t in traces))
                update = f"{b} - epsilon dC/d{b}" if e.train_biases else f"{b}, kept"
                yield row(f"new {b}", update, *(t.new_biases[i][n] for t in traces))


def _nodes(network: reference.Network) -> Iterator[tuple[list[int], list[int]]]:
    """Per layer: the numbers of the nodes below it and of its own, counted from input node 1."""
    first = 1
    for w in network.weights:
        nodes, below = w.shape
        yield list(range(first, first + below)), list(range(first + below, first + below + nodes))
        first += below


def show(e: Example, rows: list[Row]) -> None:
    """One example's table."""
    cells = [
        [
            row.name,
            row.formula,
            *(f"{v:.12f}" for v in row[2:]),
            "agree" if row.agrees else "DIFFER",
        ]
        for row in rows
    ]
    print_table(
        f"{e.source}\nx = {e.x}, y = {e.y}, f = sigmoid, f' = a (1 - a), epsilon = {e.epsilon}",
        ["number", "formula", "NumPy", "by hand", "autograd", "verdict"],
        cells,
    )


def descend(e: Example, log: RunLog) -> list[float]:
    """w <- w - epsilon dC/dw by hand until the cost is small; the cost at every step."""
    model, loss = manualbp.Sequential(*modules(e)), manualbp.MSELoss()
    optimizer = manualbp.GradientDescent(trained(e, model), e.epsilon)
    x, y = sample(e)
    costs = []
    for step in range(e.steps + 1):
        optimizer.zero_grad()
        cost = loss(model(x), y)
        cost.backward()
        costs.append(cost.item())
        done = costs[-1] < e.small or step == e.steps
        if done or step < 100 or step % 10 == 0:
            log.scalar(e.name, COST, costs[-1], step)
            log.scalar(e.name, f"log10_{COST}", math.log10(costs[-1]), step)
            for number, norm in enumerate(gradient_norms(model), start=1):
                log.scalar(e.name, GRADIENT_NORM.format(f"layer_{number}"), norm, step)
        if done:
            break
        optimizer.step()
    print(
        f"cost {costs[0]:.9f}, after one step {costs[1]:.9f}, after {step} steps {costs[-1]:.3g}\n"
    )
    return costs


def figures_come_out(e: Example, rows: list[Row], costs: list[float]) -> bool:
    """Print the source's own figures beside ours; whether each comes out to its last digit."""
    if not e.published:
        return True
    found = {row.name: row.by_hand for row in rows}
    table = []
    for what, key, digits in e.published:
        value = costs[key] if isinstance(key, int) else found[f"new {key}"]
        places = len(digits.partition(".")[2])
        verdict = "agree" if abs(value - float(digits)) <= 0.51 * 10.0**-places else "DIFFER"
        table.append([what, digits, f"{value:.12f}", verdict])
    print_table("The published figures", ["figure", "published", "by hand", "verdict"], table)
    print(e.remark)
    return all(cells[-1] == "agree" for cells in table)


def vanishing(log: RunLog) -> None:
    """Gradient norm per layer of a deep network: sigmoid, whose f' is at most 1/4, and ReLU."""
    norms: dict[str, list[float]] = {}
    for f, folder in DEEP.items():
        generator = torch.Generator().manual_seed(0)
        model = manualbp.MLP([WIDTH] * (DEPTH + 1), f, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for w in model.parameters():  # He's scale, the same numbers for both
                scale = math.sqrt(2 / WIDTH)
                w.copy_(torch.randn(w.shape, generator=generator, dtype=w.dtype) * scale)
        x = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        y = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        manualbp.MSELoss()(model(x), y).backward()
        norms[f] = gradient_norms(model)
        for layer, norm in enumerate(norms[f], start=1):
            log.scalar(folder, "gradient_norm_by_layer", norm, layer)
            log.scalar(folder, "log10_gradient_norm_by_layer", math.log10(norm), layer)
    pairs = zip(*norms.values(), strict=True)
    print_table(
        f"The vanishing gradient: |dC/dw| of {DEPTH} layers of {WIDTH} nodes, equal weights",
        ["layer", *(f"f = {f}" for f in norms)],
        [[str(n), *map(scientific, pair)] for n, pair in enumerate(pairs, start=1)],
    )
    print("sigmoid' is at most 1/4, so every layer on the way down takes its share of delta.")


def gradient_norms(model: nn.Sequential) -> list[float]:
    """|dC/dW_l|, layer by layer."""
    gradients = (layer.weight.grad for layer in linears(model))
    return [float(torch.linalg.vector_norm(g)) for g in gradients if g is not None]
