"""The planted faults: bugs in a backward pass, and how much of each is let through.

``wrong(v)`` returns the gradients as the bug makes them. ``v`` is what backward has at hand: the
operation's arguments and intermediates, ``delta``, and ``right``, the gradients as they should be.
None is a gradient that is not there. A strength is the share of the bug that is let through:

    gross    g' = w
    s        g' = g + s rms(g) / rms(w - g) (w - g),   so that rms(g' - g) / rms(g) = s
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace as Values

import torch
from torch import Tensor

from comparisons.power.networks import by_hand
from comparisons.power.operations import linear, norms, sums
from comparisons.power.operations.attention import ATTENTION_FAULTS
from comparisons.power.operations.convolution import CONVOLUTION_FAULTS, SQUARE_CONVOLUTION_FAULTS
from comparisons.power.operations.operation import Change, Gradients
from comparisons.power.pair import Pair

STRENGTHS: dict[str, float | None] = {"gross": None, "1 %": 1e-2, "1e-4": 1e-4, "1e-6": 1e-6}


@dataclass(frozen=True)
class Fault:
    """A bug in the backward pass of one operation: at a site of the network ``subject``."""

    family: str
    subject: str
    site: str
    name: str
    wrong: Change

    def at(self, strength: float | None) -> Change:
        """What the operation's gradients become at this strength; None is the bug as it is."""

        def change(v: Values) -> Gradients:
            wrong = self.wrong(v)
            if strength is None:
                return wrong
            return {name: blended(v.right[name], w, strength) for name, w in wrong.items()}

        return change


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


FAULTS = tuple(
    Fault(family, subject, site, name, wrong)
    for family, subject, site, bugs in (
        ("MLP", "MLP, tanh", "layer 1", linear.LINEAR_FAULTS),
        ("MLP", "MLP, ReLU", "layer 1", linear.RELU_FAULTS),
        ("MLP", "8 layers of sigmoid", "layer 0", linear.VANISHING_FAULTS),
        ("LayerNorm", "LayerNorm", "norm", norms.LAYER_NORM_FAULTS),
        ("attention", "attention", "attention", ATTENTION_FAULTS),
        ("convolution", "convolution", "grouped", CONVOLUTION_FAULTS),
        ("convolution", "convolution", "last", SQUARE_CONVOLUTION_FAULTS),
        ("Functions", "linear + GELU", "layer 0", linear.GELU_FAULTS),
        ("Functions", "cross entropy", "loss", sums.CROSS_ENTROPY_FAULTS),
        ("Functions", "RMSNorm", "norm", norms.RMS_NORM_FAULTS),
        ("Functions", "SwiGLU", "gate", linear.SWIGLU_FAULTS),
        ("Functions", "embedding", "embedding", sums.EMBEDDING_FAULTS),
        ("Functions", "cumulative sum", "sum", sums.CUMULATIVE_SUM_FAULTS),
    )
    for name, wrong in bugs
)
FAMILIES = tuple(dict.fromkeys(fault.family for fault in FAULTS))
