"""Activations that level off: sigmoid, tanh, Hardtanh, and Softplus, whose slope is a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.activations.base import Activation, aten, run


@dataclass(frozen=True)
class Sigmoid(Activation):
    """f(z) = 1 / (1 + e^-z),  f' = a (1 - a),  slope of f' in a: 1 - 2 a.

    f'' = f' (1 - 2 a),  f''' = f' (1 - 6 f').
    """

    needs = "a"

    f = staticmethod(torch.sigmoid)  # type: ignore[assignment]

    def derivative(self, a: Tensor) -> Tensor:
        return (1 - a) * a

    def second_derivative(self, a: Tensor) -> Tensor:
        return 1 - 2 * a

    def derivatives(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = self.derivative(a)
        return slope, slope * (1 - 2 * a), slope * (1 - 6 * slope)

    def backward(self, delta: Tensor, a: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.sigmoid_backward, into, delta, a)


@dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh z,  f' = 1 - a^2,  slope of f' in a: -2 a.

    f'' = -2 a f',  f''' = f' (6 a^2 - 2) = f' (4 - 6 f').
    """

    needs = "a"

    f = staticmethod(torch.tanh)  # type: ignore[assignment]

    def derivative(self, a: Tensor) -> Tensor:
        return 1 - a * a

    def second_derivative(self, a: Tensor) -> Tensor:
        return -2 * a

    def derivatives(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = self.derivative(a)
        return slope, -2 * a * slope, slope * (4 - 6 * slope)

    def backward(self, delta: Tensor, a: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.tanh_backward, into, delta, a)


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

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.hardtanh_backward, into, delta, z, self.min_val, self.max_val)


@dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + e^(beta z)) / beta,  f' = s = sigmoid(beta z),  f'' = beta s (1 - s).

    f''' = beta^2 s (1 - s) (1 - 2 s). Linear where beta z > threshold.
    """

    beta: float = 1.0
    threshold: float = 20.0
    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.softplus(z, self.beta, self.threshold)

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(self.beta * z > self.threshold, 1.0, torch.sigmoid(self.beta * z))

    def second_derivative(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(self.beta * z)
        return torch.where(self.beta * z < self.threshold, self.beta * s * (1 - s), 0.0)

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.beta * z
        s = torch.sigmoid(x)
        second = torch.where(x < self.threshold, self.beta * s * (1 - s), 0.0)
        return torch.where(x > self.threshold, 1.0, s), second, self.beta * (1 - 2 * s) * second

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.softplus_backward, into, delta, z, self.beta, self.threshold)
