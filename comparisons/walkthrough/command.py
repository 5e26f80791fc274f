"""The article, number by number: every z, a, delta, gradient and updated weight, in three arms.

NumPy computes them node by node with the sums written out. By hand, z, a and delta come from the
tensor formulas of manualbp, gradients from its Function and the update from its GradientDescent.
Autograd is PyTorch alone. Then each network trains until its cost is small, and a deep network
shows that gradients vanish. All of it is also one HTML page to walk through, with its pictures.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import manualbp
from comparisons import output
from comparisons.counterparts import linears
from comparisons.output import Table
from comparisons.walkthrough.examples import EXAMPLES, Example
from comparisons.walkthrough.numbers import Number, numbers
from comparisons.walkthrough.page.show import PAGE, Training, show
from comparisons.walkthrough.trace import (
    as_numbers,
    by_autograd,
    by_hand,
    by_numpy,
    modules,
    sample,
    trained,
)
from manualbp import reference
from manualbp.maths.activations import ActivationName
from manualbp.parity.cli import options
from manualbp.parity.reports.charts import WHOLE, log10
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.reports.words import scientific

# TensorBoard sorts tags by name. By layer, sigmoid's norms lie on 0 in a linear chart.
LOG_COST, COST = "1_log10_cost/{}", "cost/{}"  # by the example
LOG_NORM_BY_LAYER, LOG_NORM = "2_log10_gradient_norm_by_layer", "log10_gradient_norm/layer_{}"
# The deep networks: activation and folder. Gradients vanish in the first alone.
DEEP: dict[ActivationName, str] = {"sigmoid": "deep-sigmoid", "relu": "deep-relu"}
DEPTH, WIDTH = 12, 16
# The steps that the page shows, besides the last.
STOPS = {*range(11), *(n * 10**k for k in range(4) for n in (15, 20, 30, 50, 70, 100))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the curves go."""
    options.add_run_arguments(parser, "walkthrough")


def run(args: argparse.Namespace) -> int:
    """Print the tables and log the curves; 0 when all agree, 1 otherwise."""
    name = args.run_name or options.stamped("walkthrough")
    folders = [WHOLE, *(e.name for e in EXAMPLES), *DEEP.values()]
    agree, trainings = True, []
    with output.new_run(args.log_dir, name, folders) as log:
        for e in EXAMPLES:
            found = list(numbers(e, by_numpy(e), by_hand(e), by_autograd(e)))
            print_table(*number_table(e, found))
            costs, kept = descend(e, log)
            agree &= all(number.agrees for number in found) & figures_come_out(e, found, costs)
            trainings.append(Training(e, costs, kept))
        shown = show(trainings, vanishing(log), log)
    print("all agree" if agree and shown else "something DIFFERS")
    if shown:
        print(f"Walk through it: open {log.path / PAGE} in a browser")
    print(options.tensorboard_hint(log.path))
    return 0 if agree and shown else 1


def number_table(e: Example, found: list[Number]) -> Table:
    """One example's numbers."""
    return Table(
        f"{e.source}\nx = {e.x}, y = {e.y}, f = sigmoid, f' = a (1 - a), epsilon = {e.epsilon}",
        ["number", "formula", "NumPy", "by hand", "autograd", "verdict"],
        [
            [n.name, n.formula, *(f"{value:.12f}" for value in n[2:]), _verdict(n.agrees)]
            for n in found
        ],
    )


def figures_come_out(e: Example, found: list[Number], costs: list[float]) -> bool:
    """Print the source's own figures beside ours; whether all agree to their last digit."""
    if not e.published:
        return True
    by_hand = {number.name: number.by_hand for number in found}
    rows, agree = [], True
    for what, key, digits in e.published:
        value = costs[key] if isinstance(key, int) else by_hand[f"new {key}"]
        same = abs(value - float(digits)) <= 0.51 * 10.0 ** -len(digits.partition(".")[2])
        rows.append([what, digits, f"{value:.12f}", _verdict(same)])
        agree &= same
    print_table("The published figures", ["figure", "published", "by hand", "verdict"], rows)
    print(e.remark)
    return agree


def descend(e: Example, log: RunLog) -> tuple[list[float], dict[int, reference.Network]]:
    """w <- w - epsilon dC/dw by hand until the cost is small.

    The cost at every step, and the network at those that the page shows.
    """
    model, loss = manualbp.Sequential(*modules(e)), manualbp.MSELoss()
    optimizer = manualbp.GradientDescent(trained(e, model), e.epsilon)
    x, y = sample(e)
    costs, kept = [], {}
    for step in range(e.steps + 1):
        optimizer.zero_grad()
        cost = loss(model(x), y)
        cost.backward()
        costs.append(cost.item())
        done = costs[-1] < e.small or step == e.steps
        if done or step in STOPS:
            kept[step] = as_numbers(e, model)
        if done or step < 100 or step % 10 == 0:
            log.scalar(e.name, LOG_COST.format(e.name), log10(costs[-1]), step)
            log.scalar(e.name, COST.format(e.name), costs[-1], step)
            for number, norm in enumerate(gradient_norms(model), start=1):
                log.scalar(e.name, LOG_NORM.format(number), log10(norm), step)
        if done:
            break
        optimizer.step()
    print(
        f"cost {costs[0]:.9f}, after one step {costs[1]:.9f}, after {step} steps {costs[-1]:.3g}\n"
    )
    return costs, kept


def vanishing(log: RunLog) -> dict[str, list[float]]:
    """Gradient norm per layer of a deep network: sigmoid, whose f' is at most 1/4, and ReLU."""
    norms: dict[str, list[float]] = {}
    for f, folder in DEEP.items():
        generator = torch.Generator().manual_seed(0)
        model = manualbp.MLP([WIDTH] * (DEPTH + 1), f, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for w in model.parameters():  # the same numbers for both
                nn.init.kaiming_normal_(w, nonlinearity="relu", generator=generator)
        x = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        y = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        manualbp.MSELoss()(model(x), y).backward()
        norms[f] = gradient_norms(model)
        for layer, norm in enumerate(norms[f], start=1):
            log.scalar(folder, LOG_NORM_BY_LAYER, log10(norm), layer)
    pairs = zip(*norms.values(), strict=True)
    print_table(
        f"The vanishing gradient: |dC/dw| of {DEPTH} layers of {WIDTH} nodes, equal weights",
        ["layer", *(f"f = {f}" for f in norms)],
        [[str(n), *map(scientific, pair)] for n, pair in enumerate(pairs, start=1)],
    )
    print("sigmoid' is at most 1/4, so every layer on the way down takes its share of delta.")
    return norms


def gradient_norms(model: nn.Sequential) -> list[float]:
    """|dC/dW_l|, layer by layer."""
    gradients = (layer.weight.grad for layer in linears(model))
    return [float(torch.linalg.vector_norm(g)) for g in gradients if g is not None]


def _verdict(agrees: bool) -> str:
    return "agree" if agrees else "DIFFER"
