"""Activations that pass z > 0 on: identity, ReLU, LeakyReLU, ELU, SELU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.activations.base import Activation, aten, run


@dataclass(frozen=True)
class Identity(Activation):
    """f(z) = z,  f' = 1."""

    needs = "a"

    def f(self, z: Tensor) -> Tensor:
        return z

    def derivative(self, a: Tensor) -> Tensor:
        return torch.ones_like(a)

    def backward(self, delta: Tensor, a: Tensor, into: Tensor | None = None) -> Tensor:
        return delta


@dataclass(frozen=True)
class ReLU(Activation):
    """f(z) = max(z, 0),  f' = 1 where a > 0, else 0 (0 at the kink, as PyTorch)."""

    needs = "a"

    f = staticmethod(torch.relu)  # type: ignore[assignment]

    def derivative(self, a: Tensor) -> Tensor:
        return (a > 0).to(a.dtype)

    def backward(self, delta: Tensor, a: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.threshold_backward, into, delta, a, 0)


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """f(z) = z where z > 0, else s z,  f' = 1 where z > 0, else s."""

    negative_slope: float = 0.01
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.leaky_relu(z, self.negative_slope)

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, torch.ones_like(z), self.negative_slope)

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.leaky_relu_backward, into, delta, z, self.negative_slope, False)


def _exponential(z: Tensor, factor: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """f', f'' and f''': ``slope``, 0, 0 where z > 0, else ``factor`` e^z each."""
    below = factor * torch.exp(z.clamp(max=0))
    second = torch.where(z < 0, below, 0.0)
    return torch.where(z > 0, slope, below), second, second


@dataclass(frozen=True)
class ELU(Activation):
    """f(z) = z where z > 0, else alpha (e^z - 1),  f' = 1 where z > 0, else alpha e^z.

    f'' and f''' are 0 where z > 0, else alpha e^z.
    """

    alpha: float = 1.0
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.elu(z, self.alpha)

    def derivative(self, z: Tensor) -> Tensor:
        # e^min(z, 0): the branch not taken must not overflow, or its gradient would be 0 * inf.
        return torch.where(z > 0, 1.0, self.alpha * torch.exp(z.clamp(max=0)))

    def second_derivative(self, z: Tensor) -> Tensor:
        return torch.where(z < 0, self.alpha * torch.exp(z.clamp(max=0)), 0.0)

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _exponential(z, self.alpha, 1.0)

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.elu_backward, into, delta, self.alpha, 1, 1, False, z)


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class SELU(Activation):
    """f(z) = s z where z > 0, else s alpha (e^z - 1),  f' = s where z > 0, else s alpha e^z.

    s and alpha: Klambauer et al., "Self-Normalizing Neural Networks", 2017.
    """

    needs = "z"

    f = staticmethod(torch.selu)  # type: ignore[assignment]

    def derivative(self, z: Tensor) -> Tensor:
        return SELU_SCALE * torch.where(z > 0, 1.0, SELU_ALPHA * torch.exp(z.clamp(max=0)))

    def second_derivative(self, z: Tensor) -> Tensor:
        return torch.where(z < 0, SELU_SCALE * SELU_ALPHA * torch.exp(z.clamp(max=0)), 0.0)

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _exponential(z, SELU_SCALE * SELU_ALPHA, SELU_SCALE)

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.elu_backward, into, delta, SELU_ALPHA, SELU_SCALE, 1, False, z)
