"""The three products of a linear layer, each by the routine that is faster here (routines.py).

oneDNN adds the bias and applies some activations in the same pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manualbp.fast.cpu.routines import OVER_Z, ROUTINES, chosen
from manualbp.maths.activations import Activation, ReLU, Sigmoid, Tanh

# f that can write over z, since its f' is computed from a.
NAMES: dict[type[Activation], str] = {ReLU: "relu", Tanh: "tanh", Sigmoid: "sigmoid"}
IN_ONE_PASS = ("tanh", "sigmoid")  # oneDNN's ReLU makes 0 of NaN


def linear(h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """f(h W^T + b), f one of OVER_Z."""
    kind = "forward with tanh" if activation in IN_ONE_PASS else "forward"
    # oneDNN's products have no derivative.
    routine = "ATen" if torch.is_grad_enabled() else chosen(kind, h, weight)
    if routine == "ATen" or activation in IN_ONE_PASS:
        return ROUTINES[routine].linear(h, weight, bias, activation)
    return OVER_Z[activation](ROUTINES[routine].linear(h, weight, bias, "none"))


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """g W."""
    if chosen("input gradient", g, weight) == "ATen":
        return g.mm(weight)
    return ROUTINES["oneDNN"].linear(g, weight.t(), None, "none")


def weight_gradient(g: Tensor, h: Tensor) -> Tensor:
    """g^T h."""
    return ROUTINES[chosen("weight gradient", g, h)].weight_gradient(g, h)
