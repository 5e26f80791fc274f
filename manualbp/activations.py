"""Activation functions: f and f' side by side.

    a = f(z)            dC/dz = dC/da * f'(z)

z    pre-activation, any shape          a    activation f(z), same shape
delta  dC/da on its way down; ``backward`` turns it into dC/dz

Every class states what f' is computed from: ``needs = "z"`` or ``needs = "a"``. An activation
that can be differentiated from its own output (sigmoid, tanh, ReLU) need not keep z.

``derivative`` is the mathematics: a tensor expression that teaching, the second order and the
tests run. ``backward`` is ``delta * derivative(cache)`` as PyTorch's fused kernel rounds it: the
same number to a few units in the last place, the same bits as autograd. Source: Nielsen,
"Neural Networks and Deep Learning", ch. 2, BP1 and BP2; PyTorch's documentation of torch.nn for
the parameters and their defaults.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten


class Activation(ABC):
    """a = f(z) with its derivative f', elementwise on tensors of any shape, dtype and device."""

    needs: ClassVar[Literal["z", "a"]]

    @abstractmethod
    def f(self, z: Tensor) -> Tensor:
        """a = f(z)."""

    @abstractmethod
    def derivative(self, cache: Tensor) -> Tensor:
        """f'(z), from z or a as ``needs`` says."""

    @abstractmethod
    def backward(self, delta: Tensor, cache: Tensor) -> Tensor:
        """delta * f'(z), with the rounding of autograd."""

    @abstractmethod
    def module(self) -> nn.Module:
        """The torch.nn module that computes the same f."""


@dataclass(frozen=True)
class Identity(Activation):
    """f(z) = z,  f' = 1."""

    needs = "a"

    def f(self, z: Tensor) -> Tensor:
        return z

    def derivative(self, a: Tensor) -> Tensor:
        return torch.ones_like(a)

    def backward(self, delta: Tensor, a: Tensor) -> Tensor:
        return delta

    def module(self) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Sigmoid(Activation):
    """f(z) = 1 / (1 + e^-z),  f' = a (1 - a)."""

    needs = "a"

    def f(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def derivative(self, a: Tensor) -> Tensor:
        return (1 - a) * a

    def backward(self, delta: Tensor, a: Tensor) -> Tensor:
        return aten.sigmoid_backward(delta, a)

    def module(self) -> nn.Module:
        return nn.Sigmoid()


@dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh z,  f' = 1 - a^2."""

    needs = "a"

    def f(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def derivative(self, a: Tensor) -> Tensor:
        return 1 - a * a

    def backward(self, delta: Tensor, a: Tensor) -> Tensor:
        return aten.tanh_backward(delta, a)

    def module(self) -> nn.Module:
        return nn.Tanh()


@dataclass(frozen=True)
class ReLU(Activation):
    """f(z) = max(z, 0),  f' = 1 where a > 0, else 0 (0 at the kink, as PyTorch)."""

    needs = "a"

    def f(self, z: Tensor) -> Tensor:
        return torch.relu(z)

    def derivative(self, a: Tensor) -> Tensor:
        return (a > 0).to(a.dtype)

    def backward(self, delta: Tensor, a: Tensor) -> Tensor:
        return aten.threshold_backward(delta, a, 0)

    def module(self) -> nn.Module:
        return nn.ReLU()


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """f(z) = z where z > 0, else s z,  f' = 1 where z > 0, else s."""

    negative_slope: float = 0.01
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.leaky_relu(z, self.negative_slope)

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, torch.ones_like(z), self.negative_slope)

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.leaky_relu_backward(delta, z, self.negative_slope, False)

    def module(self) -> nn.Module:
        return nn.LeakyReLU(self.negative_slope)


@dataclass(frozen=True)
class ELU(Activation):
    """f(z) = z where z > 0, else alpha (e^z - 1),  f' = 1 where z > 0, else alpha e^z."""

    alpha: float = 1.0
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.elu(z, self.alpha)

    def derivative(self, z: Tensor) -> Tensor:
        # e^min(z, 0): the branch not taken must not overflow, or its gradient would be 0 * inf.
        return torch.where(z > 0, 1.0, self.alpha * torch.exp(z.clamp(max=0)))

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.elu_backward(delta, self.alpha, 1, 1, False, z)

    def module(self) -> nn.Module:
        return nn.ELU(self.alpha)


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class SELU(Activation):
    """f(z) = s z where z > 0, else s alpha (e^z - 1),  f' = s where z > 0, else s alpha e^z.

    s and alpha: Klambauer et al., "Self-Normalizing Neural Networks", 2017.
    """

    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return torch.selu(z)

    def derivative(self, z: Tensor) -> Tensor:
        return SELU_SCALE * torch.where(z > 0, 1.0, SELU_ALPHA * torch.exp(z.clamp(max=0)))

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.elu_backward(delta, SELU_ALPHA, SELU_SCALE, 1, False, z)

    def module(self) -> nn.Module:
        return nn.SELU()


@dataclass(frozen=True)
class GELU(Activation):
    """f(z) = z Phi(z),  f' = Phi(z) + z phi(z).

    Phi and phi are the normal distribution function and its density:
    Phi(z) = (1 + erf(z / sqrt 2)) / 2,  phi(z) = e^(-z^2 / 2) / sqrt(2 pi).
    """

    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.gelu(z)

    def derivative(self, z: Tensor) -> Tensor:
        cdf = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
        pdf = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return cdf + z * pdf

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.gelu_backward(delta, z, approximate="none")

    def module(self) -> nn.Module:
        return nn.GELU()


@dataclass(frozen=True)
class GELUTanh(Activation):
    """f(z) = z (1 + t) / 2,  f' = (1 + t) / 2 + z (1 - t^2) u' / 2.

    t = tanh u,  u = k (z + c z^3),  u' = k (1 + 3 c z^2),  k = sqrt(2 / pi),  c = 0.044715.
    """

    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.gelu(z, approximate="tanh")

    def derivative(self, z: Tensor) -> Tensor:
        k, c = math.sqrt(2 / math.pi), 0.044715
        t = torch.tanh(k * (z + c * z * z * z))
        du = k * (1 + 3 * c * z * z)
        return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * du

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.gelu_backward(delta, z, approximate="tanh")

    def module(self) -> nn.Module:
        return nn.GELU(approximate="tanh")


@dataclass(frozen=True)
class SiLU(Activation):
    """f(z) = z s,  f' = s (1 + z (1 - s)),  s = sigmoid(z)."""

    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.silu(z)

    def derivative(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.silu_backward(delta, z)

    def module(self) -> nn.Module:
        return nn.SiLU()


@dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + e^(beta z)) / beta,  f' = sigmoid(beta z); linear where beta z > threshold."""

    beta: float = 1.0
    threshold: float = 20.0
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.softplus(z, self.beta, self.threshold)

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(self.beta * z > self.threshold, 1.0, torch.sigmoid(self.beta * z))

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.softplus_backward(delta, z, self.beta, self.threshold)

    def module(self) -> nn.Module:
        return nn.Softplus(self.beta, self.threshold)


@dataclass(frozen=True)
class Hardtanh(Activation):
    """f(z) = min(max(z, lo), hi),  f' = 1 where lo < z < hi, else 0."""

    min_val: float = -1.0
    max_val: float = 1.0
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.hardtanh(z, self.min_val, self.max_val)

    def derivative(self, z: Tensor) -> Tensor:
        return ((z > self.min_val) & (z < self.max_val)).to(z.dtype)

    def backward(self, delta: Tensor, z: Tensor) -> Tensor:
        return aten.hardtanh_backward(delta, z, self.min_val, self.max_val)

    def module(self) -> nn.Module:
        return nn.Hardtanh(self.min_val, self.max_val)


ACTIVATIONS: dict[str, Activation] = {
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

# Exact types only: a subclass may compute something else.
_FROM_MODULE: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.Identity: lambda m: Identity(),
    nn.Sigmoid: lambda m: Sigmoid(),
    nn.Tanh: lambda m: Tanh(),
    nn.ReLU: lambda m: ReLU(),
    nn.LeakyReLU: lambda m: LeakyReLU(m.negative_slope),
    nn.ELU: lambda m: ELU(m.alpha),
    nn.SELU: lambda m: SELU(),
    nn.GELU: lambda m: GELUTanh() if m.approximate == "tanh" else GELU(),
    nn.SiLU: lambda m: SiLU(),
    nn.Softplus: lambda m: Softplus(m.beta, m.threshold),
    nn.Hardtanh: lambda m: Hardtanh(m.min_val, m.max_val),
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

    In-place modules are none: they overwrite the z that the derivative needs.
    """
    build = _FROM_MODULE.get(type(module))
    return build(module) if build and not getattr(module, "inplace", False) else None
