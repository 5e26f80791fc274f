"""Planted backward faults: what one is, and how much of it is let through.

``wrong(v)`` returns the gradients as the bug makes them, from what backward has at hand (``v``:
the operation's arguments and intermediates, ``delta``, and ``right``, the gradients as they should
be). None is a gradient that is not there. A strength is the share of the bug that is let through:

    gross    g' = w
    s        g' = g + s rms(g) / rms(w - g) (w - g),   so that rms(g' - g) / rms(g) = s
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace as Values

import torch
from torch import Tensor

from comparisons.power.networks import Problem, by_hand
from comparisons.power.operations.operation import Change, Gradients

Bug = tuple[str, Callable[[Values], Gradients]]
TILE = 8  # rows a tiled kernel takes at once; no number of rows here is a multiple of it

STRENGTHS: dict[str, float | None] = {"gross": None, "1 %": 1e-2, "1e-4": 1e-4, "1e-6": 1e-6}


@dataclass(frozen=True)
class Fault:
    """A bug of one operation's backward, at a named site of a subject."""

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


def of(family: str, subject: str, site: str, bugs: Sequence[Bug]) -> list[Fault]:
    """The faults at one site of one subject."""
    return [Fault(family, subject, site, name, wrong) for name, wrong in bugs]


def whole_tiles(n: int) -> int:
    """Rows in whole tiles."""
    return n // TILE * TILE


def blended(g: Tensor, wrong: Tensor | None, strength: float) -> Tensor:
    """G' = g + s rms(g) / rms(w - g) (w - g); g where the two do not differ."""
    apart = -g if wrong is None else wrong - g
    size = rms(apart)
    return g if size == 0 else g + strength * rms(g) / size * apart


def effect(fault: Fault, problem: Problem) -> float:
    """The largest rms(w - g) / rms(g) of the gradients at the site; 0 for a fault without effect.

    On the first batch, with dC = 1.5: a fault may lie in how dC is taken in.
    """
    found = []

    def measured(v: Values) -> Gradients:
        for name, w in fault.wrong(v).items():
            g = v.right[name]
            found.append(rms(g if w is None else w - g) / rms(g))
        return {}

    network = by_hand(problem.reference, fault.site, measured)
    inputs, target = problem.batches[0]
    cost = 1.5 * problem.loss(network(*inputs), target)
    torch.autograd.grad(cost, list(network.parameters()))
    return max(found, default=0.0)


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.detach().double().square().mean().sqrt())
