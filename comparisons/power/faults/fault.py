"""One planted fault: a bug in a backward pass, and how much of it is let through.

``wrong(v)`` returns the gradients as the bug makes them. ``v`` is what backward has at hand: the
operation's arguments and intermediates, ``delta``, and ``right``, the gradients as they should be.
None is a gradient that is not there. A strength is the share of the bug that is let through:

    gross    g' = w
    s        g' = g + s rms(g) / rms(w - g) (w - g),   so that rms(g' - g) / rms(g) = s
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace as Values

import torch
from torch import Tensor

from comparisons.power.networks import by_hand
from comparisons.power.operations.operation import Change, Gradients
from comparisons.power.pair import Pair

Bug = tuple[str, Callable[[Values], Gradients]]
TILE = 8  # rows that a tiled kernel takes at once; the last tile of every network is a partial one

STRENGTHS: dict[str, float | None] = {"gross": None, "1 %": 1e-2, "1e-4": 1e-4, "1e-6": 1e-6}


@dataclass(frozen=True)
class Fault:
    """A bug in the backward pass of one operation: at a site of the network ``subject``."""

    family: str
    subject: str
    site: str
    name: str
    wrong: Callable[[Values], Gradients]

    def at(self, strength: float | None) -> Change:
        """What the operation's gradients become at this strength; None is the bug as it is."""

        def change(v: Values) -> Gradients:
            wrong = self.wrong(v)
            if strength is None:
                return wrong
            return {name: blended(v.right[name], w, strength) for name, w in wrong.items()}

        return change


def whole_tiles(n: int) -> int:
    """How many of n rows are in whole tiles."""
    return n // TILE * TILE


def blended(g: Tensor, wrong: Tensor | None, strength: float) -> Tensor:
    """g' = g + s rms(g) / rms(w - g) (w - g); g where the two do not differ."""
    apart = -g if wrong is None else wrong - g
    size = rms(apart)
    return g if size == 0 else g + strength * rms(g) / size * apart


def effect(fault: Fault, right: Pair) -> float:
    """The largest rms(w - g) / rms(g) of the gradients at the site; 0 for a fault without effect.

    ``right``: the fault's network, on whose first batch it is measured. There dC is 1.5, since a
    fault may lie in how dC is taken in.
    """
    found = []

    def measured(v: Values) -> Gradients:
        for name, w in fault.wrong(v).items():
            g = v.right[name]
            found.append(rms(g if w is None else w - g) / rms(g))
        return {}

    network = by_hand(right.reference, fault.site, measured)
    inputs, target = right.batches[0]
    output = network(*inputs)
    cost = 1.5 * (right.loss(output, target) if right.loss else output)
    torch.autograd.grad(cost, list(network.parameters()))
    return max(found, default=0.0)


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.detach().double().square().mean().sqrt())
