"""The worked examples: the article's two networks and Mazur's published one, as numbers.

As in the article, one count runs through all nodes: the 2-2-2-1 network has inputs 1 and 2, hidden
nodes 3 to 6 and output 7, and w_31 leads from node 1 to node 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manualbp import reference


@dataclass(frozen=True)
class Example:
    """A network, one sample, and the loop that makes its cost small.

    The cost is the mean of (o - y)^2 over the outputs; with Mazur's two that is his
    sum of (o - y)^2 / 2.
    """

    name: str
    title: str
    source: str
    network: reference.Network
    x: tuple[float, ...]
    y: tuple[float, ...]
    epsilon: float
    steps: int  # at most
    small: float = 0.0  # the cost at which the loop ends
    train_biases: bool = True
    # The source's own figures: what, the weight after one step or the step of the cost, digits.
    published: tuple[tuple[str, str | int, str], ...] = ()
    remark: str = ""


def sigmoid_network(
    weights: list[list[list[float]]], biases: list[list[float] | None]
) -> reference.Network:
    """w^l row by row and b^l for every layer, with a sigmoid in each node."""
    return reference.Network(
        [np.array(w) for w in weights],
        [None if b is None else np.array(b) for b in biases],
        ["sigmoid"] * len(weights),
    )


# The article gives no numbers; these are ours.
CHAIN = Example(
    name="chain",
    title="The article's chain, 1-1-1-1",
    source="the article's simple network, 1-1-1-1; its output layer has no bias",
    network=sigmoid_network([[[0.8]], [[-0.6]], [[0.9]]], [[0.1], [0.2], None]),
    x=(0.5,), y=(0.8,), epsilon=1.0, steps=5000, small=1e-6,
)  # fmt: skip
SEVEN_NODES = Example(
    name="seven-nodes",
    title="The article's 2-2-2-1",
    source="the article's network with several nodes per layer, 2-2-2-1",
    network=sigmoid_network(
        [[[0.4, -0.2], [0.3, 0.5]], [[-0.7, 0.1], [0.6, 0.2]], [[0.5, -0.4]]],
        [[0.1, -0.1], [0.2, 0.3], [-0.2]],
    ),
    x=(0.6, -0.3), y=(0.9,), epsilon=1.0, steps=5000, small=1e-6,
)  # fmt: skip
MAZUR = Example(
    name="mazur",
    title="Mazur's 2-2-2",
    source='Matt Mazur, "A Step by Step Backpropagation Example", 2-2-2; biases stay as they are',
    network=sigmoid_network(
        [[[0.15, 0.20], [0.25, 0.30]], [[0.40, 0.45], [0.50, 0.55]]], [[0.35, 0.35], [0.60, 0.60]]
    ),
    x=(0.05, 0.10), y=(0.01, 0.99), epsilon=0.5,
    steps=10_000, train_biases=False,
    published=(
        ("error at the start", 0, "0.298371109"),
        ("w1 after one step", "w_31", "0.149780716"), ("w2", "w_32", "0.19956143"),
        ("w3", "w_41", "0.24975114"), ("w4", "w_42", "0.29950229"),
        ("w5", "w_53", "0.35891648"), ("w6", "w_54", "0.408666186"),
        ("w7", "w_63", "0.511301270"), ("w8", "w_64", "0.561370121"),
        ("error after one step", 1, "0.291027774"),
        ("error after 10,000 steps", 10_000, "0.000035"),
    ),
    remark="For the error after one step the text prints 0.291027924; computed from the text's own "
    "updated weights it is 0.291027774.",
)  # fmt: skip

EXAMPLES = (CHAIN, SEVEN_NODES, MAZUR)
