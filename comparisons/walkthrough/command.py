"""The article, number by number: every z, a, delta, gradient and updated weight, in three arms.

NumPy computes them node by node with the sums written out. By hand, z, a and delta come from the
tensor formulas of manualbp, gradients from its Function and the update from its GradientDescent.
Autograd is PyTorch alone. Then each network trains until its cost is small, and a deep network
shows that gradients vanish.
"""

from __future__ import annotations

import argparse

from comparisons import output
from comparisons.output import Table
from comparisons.walkthrough.descent import DEEP, descend, vanishing
from comparisons.walkthrough.examples import EXAMPLES, Example
from comparisons.walkthrough.numbers import Number, numbers
from comparisons.walkthrough.trace import by_autograd, by_hand, by_numpy
from manualbp.parity.cli import options
from manualbp.parity.reports.terminal import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the curves go."""
    options.add_run_arguments(parser, "walkthrough")


def run(args: argparse.Namespace) -> int:
    """Print the tables and log the curves; 0 when all agree, 1 otherwise."""
    name = args.run_name or options.stamped("walkthrough")
    agree = True
    with output.new_run(args.log_dir, name, [*(e.name for e in EXAMPLES), *DEEP.values()]) as log:
        for e in EXAMPLES:
            found = list(numbers(e, by_numpy(e), by_hand(e), by_autograd(e)))
            print_table(*number_table(e, found))
            costs = descend(e, log)
            agree &= all(number.agrees for number in found) & figures_come_out(e, found, costs)
        vanishing(log)
    print("all agree" if agree else "something DIFFERS")
    print(options.tensorboard_hint(log.path))
    return 0 if agree else 1


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


def _verdict(agrees: bool) -> str:
    return "agree" if agrees else "DIFFER"
