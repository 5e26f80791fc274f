"""Activations z times a gate between 0 and 1: GELU, its tanh form, SiLU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.maths.activations.base import Activation, aten, run


def _density(z: Tensor) -> Tensor:
    """phi(z) = e^(-z^2 / 2) / sqrt(2 pi)."""
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


_K, _C = math.sqrt(2 / math.pi), 0.044715


def _tanh_u(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """t = tanh u, u' and u'' for u = k (z + c z^3)."""
    return torch.tanh(_K * (z + _C * z * z * z)), _K * (1 + 3 * _C * z * z), 6 * _K * _C * z


@dataclass(frozen=True)
class GELU(Activation):
    """f(z) = z Phi(z),  f' = Phi(z) + z phi(z),  f'' = (2 - z^2) phi(z).

    f''' = z (z^2 - 4) phi(z). Phi and phi are the normal distribution function and its density:
    Phi(z) = (1 + erf(z / sqrt 2)) / 2,  phi(z) = e^(-z^2 / 2) / sqrt(2 pi).
    """

    needs = "z"
    r_operator_from = 2**18

    def f(self, z: Tensor) -> Tensor:
        return F.gelu(z)

    def derivative(self, z: Tensor) -> Tensor:
        cdf = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
        return cdf + z * _density(z)

    def second_derivative(self, z: Tensor) -> Tensor:
        return (2 - z * z) * _density(z)

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi, square = _density(z), z * z
        cdf = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
        return cdf + z * phi, (2 - square) * phi, z * (square - 4) * phi

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.gelu_backward, into, delta, z, approximate="none")


@dataclass(frozen=True)
class GELUTanh(Activation):
    """f(z) = z (1 + t) / 2,  f' = (1 + t) / 2 + z (1 - t^2) u' / 2.

    f'' = (1 - t^2) [u' + z (u'' - 2 t u'^2) / 2] with
    t = tanh u,  u = k (z + c z^3),  u' = k (1 + 3 c z^2),  k = sqrt(2 / pi),  c = 0.044715.
    f''' = (3 t'' + z t''') / 2,  t'' = (1 - t^2) (u'' - 2 t u'^2),
    t''' = (1 - t^2) [u''' - 6 t u' u'' + (6 t^2 - 2) u'^3].
    """

    needs = "z"
    r_operator_from = 2**16

    def f(self, z: Tensor) -> Tensor:
        return F.gelu(z, approximate="tanh")

    def derivative(self, z: Tensor) -> Tensor:
        t, du, _ = _tanh_u(z)
        return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * du

    def second_derivative(self, z: Tensor) -> Tensor:
        t, du, ddu = _tanh_u(z.clamp(-30, 30))  # where t is -1 or 1, before u' overflows
        return (1 - t * t) * (du + 0.5 * z * (ddu - 2 * t * du * du))

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = z.clamp(-30, 30)  # as above
        t, du, ddu = _tanh_u(z)
        rest = 1 - t * t
        first, second = rest * du, rest * (ddu - 2 * t * du * du)
        third = rest * (6 * _K * _C - 6 * t * du * ddu + (6 * t * t - 2) * du * du * du)
        slope = 0.5 * (1 + t) + 0.5 * z * first
        return slope, first + 0.5 * z * second, 1.5 * second + 0.5 * z * third

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.gelu_backward, into, delta, z, approximate="tanh")


@dataclass(frozen=True)
class SiLU(Activation):
    """f(z) = z s,  f' = s (1 + z (1 - s)),  f'' = s (1 - s) (2 + z (1 - 2 s)),  s = sigmoid(z).

    f''' = s (1 - s) (3 (1 - 2 s) + z (1 - 6 s (1 - s))).
    """

    needs = "z"

    def f(self, z: Tensor) -> Tensor:
        return F.silu(z)

    def derivative(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))

    def second_derivative(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 - s) * (2 + z * (1 - 2 * s))

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = torch.sigmoid(z)
        rest, tilt = s * (1 - s), 1 - 2 * s
        third = rest * (3 * tilt + z * (1 - 6 * rest))
        return s * (1 + z * (1 - s)), rest * (2 + z * tilt), third

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        return run(aten.silu_backward, into, delta, z)

    @property
    def recorded(self) -> Activation:
        return RecordedSiLU()


@dataclass(frozen=True)
class RecordedSiLU(SiLU):
    """SiLU under ``create_graph=True``, where PyTorch runs an expression instead of its kernel."""

    def backward(self, delta: Tensor, z: Tensor, into: Tensor | None = None) -> Tensor:
        s = torch.sigmoid(z)
        return delta * s * (1 + z * (1 - s))
