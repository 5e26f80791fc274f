"""Activation functions: f and f' side by side, f'' and f'''.

    a = f(z)            dC/dz = dC/da * f'(z)

z    pre-activation, any shape          a    activation f(z), same shape
delta  dC/da on its way down; ``backward`` turns it into dC/dz

``derivative`` is the written formula. Teaching, function transforms and the tests run it. The
second order uses its slope, ``second_derivative``; ``derivatives`` are all three in z, for
maths/taylor.py. ``backward`` is ``delta * derivative(cache)`` by
PyTorch's own kernel: the same bits as autograd, the formula's number to a few units in the last
place. Source: Nielsen, "Neural Networks and Deep Learning", ch. 2, BP1 and BP2; PyTorch's
documentation of torch.nn for the parameters and their defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from manualbp.maths.activations.base import Activation
from manualbp.maths.activations.gated import GELU, GELUTanh, SiLU
from manualbp.maths.activations.rectifiers import ELU, SELU, Identity, LeakyReLU, ReLU
from manualbp.maths.activations.sigmoids import Hardtanh, Sigmoid, Softplus, Tanh

__all__ = ["ACTIVATIONS", "ELU", "GELU", "MODULES", "SELU", "Activation", "ActivationName",
           "GELUTanh", "Hardtanh", "Identity", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Softplus",
           "Tanh", "by_name", "from_module", "to_module"]  # fmt: skip

# For type checkers: the keys of ACTIVATIONS.
ActivationName = Literal["identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu",
                         "gelu_tanh", "silu", "softplus", "hardtanh"]  # fmt: skip
ACTIVATIONS: dict[ActivationName, Activation] = {
    "identity": Identity(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "elu": ELU(),
    "selu": SELU(),
    "gelu": GELU(),
    "gelu_tanh": GELUTanh(),
    "silu": SiLU(),
    "softplus": Softplus(),
    "hardtanh": Hardtanh(),
}

# Ours from a module of torch.nn. Exact types only: a subclass may compute something else.
MODULES: dict[type[nn.Module], Callable[[Any], Activation | None]] = {
    nn.Identity: lambda m: Identity(),
    nn.Sigmoid: lambda m: Sigmoid(),
    nn.Tanh: lambda m: Tanh(),
    nn.ReLU: lambda m: ReLU(),
    nn.LeakyReLU: lambda m: LeakyReLU(float(m.negative_slope)),
    nn.ELU: lambda m: ELU(float(m.alpha)),
    nn.SELU: lambda m: SELU(),
    nn.GELU: lambda m: {"none": GELU(), "tanh": GELUTanh()}.get(m.approximate),
    nn.SiLU: lambda m: SiLU(),
    nn.Softplus: lambda m: Softplus(float(m.beta), float(m.threshold)),
    nn.Hardtanh: lambda m: Hardtanh(float(m.min_val), float(m.max_val)),
}
# And back.
_TO_MODULE: dict[type[Activation], Callable[[Any], nn.Module]] = {
    Identity: lambda f: nn.Identity(),
    Sigmoid: lambda f: nn.Sigmoid(),
    Tanh: lambda f: nn.Tanh(),
    ReLU: lambda f: nn.ReLU(),
    LeakyReLU: lambda f: nn.LeakyReLU(f.negative_slope),
    ELU: lambda f: nn.ELU(f.alpha),
    SELU: lambda f: nn.SELU(),
    GELU: lambda f: nn.GELU(),
    GELUTanh: lambda f: nn.GELU(approximate="tanh"),
    SiLU: lambda f: nn.SiLU(),
    Softplus: lambda f: nn.Softplus(f.beta, f.threshold),
    Hardtanh: lambda f: nn.Hardtanh(f.min_val, f.max_val),
}


def by_name(name: str) -> Activation:
    """The activation called ``name``, one of the keys of ``ACTIVATIONS``.

    Raises:
        ValueError: an unknown name; the message lists the known ones and the nearest.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    near = difflib.get_close_matches(str(name).lower(), ACTIVATIONS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}{hint}")


def from_module(module: nn.Module) -> Activation | None:
    """The activation that ``module`` computes, or None where it is none of the known ones.

    A module that works in place computes the same f.
    """
    build = MODULES.get(type(module))
    return build(module) if build else None


def to_module(activation: Activation) -> nn.Module:
    """The torch.nn module that computes the same f."""
    return _TO_MODULE[type(activation)](activation)
