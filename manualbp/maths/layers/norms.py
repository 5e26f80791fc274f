"""Normalizations: subtract a mean, divide by a standard deviation, scale and shift.

    LayerNorm, RMSNorm   over the features of each row
    BatchNorm            over the rows of each feature

xhat = (h - mu) r,   r = 1 / sqrt(var + eps),   a = xhat * gamma + beta

    dC/dgamma = sum delta * xhat      dC/dbeta = sum delta       g = delta * gamma = dC/dxhat
    dC/dh     = r (g - mean g - xhat * mean(g * xhat))           means over what was normalized

``formula`` is that; PyTorch's kernels round the same as autograd does. A recorded backward runs
the kernel too, since PyTorch has its derivative. Source: Ba, Kiros, Hinton, *Layer Normalization*,
2016; Ioffe, Szegedy, *Batch Normalization*, 2015; Zhang, Sennrich, *RMSNorm*, 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.maths.layers.base import By, Grads, Layer, Needs, Shape, Tape, Theta, read, taken

aten = torch.ops.aten


@dataclass(frozen=True)
class _OverFeatures(Layer):
    """Over the last dimensions ``shape`` of h (..., *shape)."""

    shape: tuple[int, ...]

    def by_rows(self) -> bool:
        return len(self.shape) == 1

    def h_at(self) -> int | None:
        return 0

    @property
    def features(self) -> tuple[int, ...]:
        """The dimensions of h."""
        return tuple(range(-len(self.shape), 0))


@dataclass(frozen=True)
class LayerNorm(_OverFeatures):
    """a = xhat * gamma + beta, mu and var over the last dimensions ``shape`` of h (..., *shape)."""

    eps: float
    parameters = 2
    keeps = 5

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        return shape if shape[-len(self.shape) :] == self.shape else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        a, mean, rstd = aten.native_layer_norm(h, self.shape, *theta, self.eps)
        tape += (h, *theta, mean, rstd) if needs else (None,) * self.keeps
        return a

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        h, gamma, beta, mean, rstd = taken(tape, self.keeps)
        wanted = [needs.h, *needs.theta]
        if by == "formula":
            found = self._formula(delta, read(h), gamma, read(mean), read(rstd), needs)
        else:
            found = aten.native_layer_norm_backward(
                delta, h, self.shape, mean, rstd, gamma, beta, wanted
            )
        return split(found, wanted, grads)

    def _formula(
        self, delta: Tensor, h: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, needs: Needs
    ) -> Theta:
        rows = _rows_of(h, self.features)
        return formula(delta, (h - mean) * r, r, gamma, self.features, rows, needs)


@dataclass(frozen=True)
class RMSNorm(_OverFeatures):
    """a = xhat * gamma,  xhat = h r,  r = 1 / sqrt(mean h^2 + eps) over the last dimensions.

    dC/dh = r (g - xhat * mean(g * xhat)). xhat is not kept: h and r give it again. Nor is r where
    dC/dgamma alone is wanted, since autograd then keeps only one tensor of h's size. Autograd adds
    two terms of dC/dh to the gradient of h, so it is no first layer, whose h others may read.
    """

    eps: float | None
    parameters = 1
    keeps = 3
    devices = ("cpu",)  # where PyTorch composes it of these operations
    dtypes = (torch.float32, torch.float64)

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        gamma = theta[0]
        fits = shape[-len(self.shape) :] == self.shape
        return shape if fits and (gamma is None or gamma.shape == self.shape) else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        gamma, r = theta[0], self._r(h)
        a = h * r if gamma is None else h * r * gamma
        if needs.h:
            tape += (h, gamma, r)
        else:
            tape += (h if needs else None, None, None)
        return a

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        h, gamma, r = taken(tape, self.keeps)
        h, features = read(h), self.features
        # Where autograd records, r must carry its own dependence on h.
        if r is None or (by != "formula" and torch.is_grad_enabled()):
            r = self._r(h)
        rows = _rows_of(h, features)
        if by == "formula":
            wants = Needs(needs.h, (*needs.theta, False))
            found = formula(delta, h * r, r, gamma, features, rows, wants, centred=False)
            grads.append(found[1])
            return found[0]
        grads.append(summed(delta * (h * r), rows) if needs.theta[0] else None)
        return self._in_autograds_order(delta, h, gamma, r) if needs.h else None

    def _in_autograds_order(
        self, delta: Tensor, h: Tensor, gamma: Tensor | None, r: Tensor
    ) -> Tensor:
        g = delta if gamma is None else delta * gamma
        # A sum of one number loses the sign of -0.
        wide = tuple(d for d in self.features if h.shape[d] != 1)
        grad_r = summed(g * h, wide, keepdim=True)
        grad_mean = -0.5 * grad_r * r.pow(3)
        grad_square = grad_mean / math.prod(self.shape)  # of every h^2 in the row
        return g * r + grad_square * (2 * h)

    def _r(self, h: Tensor) -> Tensor:
        eps = torch.finfo(h.dtype).eps if self.eps is None else self.eps
        return torch.rsqrt(h.pow(2).mean(self.features, keepdim=True).add(eps))


def split(found: Theta, wanted: list[bool], grads: list[Tensor | None]) -> Tensor | None:
    """dC/dh; the gradients of gamma and beta are added to ``grads``."""
    grad_h, *rest = (g if want else None for g, want in zip(found, wanted, strict=True))
    grads += rest
    return grad_h


def formula(
    delta: Tensor, xhat: Tensor, r: Tensor, gamma: Tensor | None, over: tuple[int, ...],
    rows: tuple[int, ...], needs: Needs, centred: bool = True,
) -> Theta:  # fmt: skip
    """The gradients at the head of this file; without ``over`` the statistics are constants."""
    g = delta if gamma is None else delta * gamma
    grad_h = g
    if over:
        grad_h = grad_h - xhat * (g * xhat).mean(over, keepdim=True)
    if centred:
        grad_h = grad_h - g.mean(over, keepdim=True)
    return (
        r * grad_h if needs.h else None,
        summed(delta * xhat, rows) if needs.theta[0] else None,
        summed(delta, rows) if needs.theta[1] else None,
    )


def summed(x: Tensor, rows: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Over those dimensions; sum(()) would be over all."""
    return x.sum(rows, keepdim=keepdim) if rows else x


def _rows_of(h: Tensor, over: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(h.dim() - len(over)))
