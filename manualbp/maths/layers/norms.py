"""Normalizations: subtract a mean, divide by a standard deviation, scale and shift.

    LayerNorm, RMSNorm   over the features of each row
    BatchNorm            over the rows of each feature

xhat = (h - mu) r,   r = 1 / sqrt(var + eps),   a = xhat * gamma + beta

    dC/dgamma = sum delta * xhat      dC/dbeta = sum delta       g = delta * gamma = dC/dxhat
    dC/dh     = r (g - mean g - xhat * mean(g * xhat))           means over what was normalized

``formula`` is that; ``backward`` the same as PyTorch's kernel rounds it. A recorded backward runs
the kernel too, whose own derivative PyTorch has. Source: Ba, Kiros, Hinton, *Layer Normalization*,
2016; Ioffe, Szegedy, *Batch Normalization*, 2015; Zhang, Sennrich, *RMSNorm*, 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.maths.layers.base import Cache, Layer, Needs, Shape, Theta, kept

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerNorm(Layer):
    """a = xhat * gamma + beta, mu and var over the last dimensions ``shape`` of h (..., *shape)."""

    shape: tuple[int, ...]
    eps: float
    parameters = 2

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        return shape if shape[-len(self.shape) :] == self.shape else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        a, mean, rstd = aten.native_layer_norm(h, self.shape, *theta, self.eps)
        return a, Cache(h, None, theta, (mean, rstd)) if needs else Cache()

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        (mean, rstd), wanted = cache.extra, [needs.h, *needs.theta]
        grads = aten.native_layer_norm_backward(
            delta, cache.h, self.shape, mean, rstd, *cache.theta, wanted
        )
        return tuple([g if w else None for g, w in zip(grads, wanted, strict=True)])

    def formula(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        h, (mean, rstd) = kept(cache.h), cache.extra
        xhat = (h - kept(mean)) * kept(rstd)
        over = tuple(range(-len(self.shape), 0))
        return _formula(delta, xhat, kept(rstd), cache.theta[0], over, _rows_of(h, over), needs)


@dataclass(frozen=True)
class RMSNorm(Layer):
    """a = xhat * gamma,  xhat = h r,  r = 1 / sqrt(mean h^2 + eps) over the last dimensions.

    dC/dh = r (g - xhat * mean(g * xhat)). xhat is not kept: h and r give it again. Nor is r where
    dC/dgamma alone is wanted, since autograd then keeps only one tensor of h's size. Autograd adds
    two terms of dC/dh to the gradient of h, so it is no first layer, whose h others may read.
    """

    shape: tuple[int, ...]
    eps: float | None
    parameters = 1
    devices = ("cpu",)  # where PyTorch composes it of these operations
    dtypes = (torch.float32, torch.float64)

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        gamma = theta[0]
        fits = shape[-len(self.shape) :] == self.shape
        return shape if fits and (gamma is None or gamma.shape == self.shape) else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        gamma, rstd = theta[0], self._rstd(h)
        a = h * rstd if gamma is None else h * rstd * gamma
        extra = (rstd if needs.h else None,)
        return a, Cache(h, None, (gamma if needs.h else None,), extra) if needs else Cache()

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """In autograd's order of operations."""
        h, (gamma,) = kept(cache.h), cache.theta
        # Where autograd records, r must carry its own dependence on h.
        again = torch.is_grad_enabled() or cache.extra[0] is None
        rstd = self._rstd(h) if again else kept(cache.extra[0])
        over = tuple(range(-len(self.shape), 0))
        grad_h = grad_gamma = None
        if needs.theta[0]:
            grad_gamma = _sum(delta * (h * rstd), _rows_of(h, over))
        if needs.h:
            g = delta if gamma is None else delta * gamma
            wide = tuple(d for d in over if h.shape[d] != 1)  # a sum of one loses the sign of -0
            grad_r = _sum(g * h, wide, keepdim=True)
            grad_mean = -0.5 * grad_r * rstd.pow(3)
            grad_square = grad_mean / math.prod(self.shape)  # of every h^2 in the row
            grad_h = g * rstd + grad_square * (2 * h)
        return grad_h, grad_gamma

    def formula(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        h = kept(cache.h)
        rstd = self._rstd(h) if cache.extra[0] is None else cache.extra[0]
        over = tuple(range(-len(self.shape), 0))
        needs = Needs(needs.h, (*needs.theta, False))
        return _formula(
            delta, h * rstd, rstd, cache.theta[0], over, _rows_of(h, over), needs, centred=False
        )[:2]

    def _rstd(self, h: Tensor) -> Tensor:
        eps = torch.finfo(h.dtype).eps if self.eps is None else self.eps
        over = tuple(range(-len(self.shape), 0))
        return torch.rsqrt(h.pow(2).mean(over, keepdim=True).add(eps))


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """a = xhat * gamma + beta, mu and var over all but dimension 1 of h (N, C) or (N, C, L).

    With ``training`` they are the batch's, and the running statistics move towards them by
    ``momentum`` (None: by 1 / number of batches so far, which ``batches`` counts); without, they
    are the running ones, constants: dC/dh = r g.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    batches: Tensor | None
    training: bool
    momentum: float | None
    eps: float
    parameters = 2
    devices = ("cpu",)  # on a GPU PyTorch chooses between several kernels

    def buffers(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.running_mean, self.running_var) if t is not None)

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        if len(shape) not in (2, 3) or any(
            t is not None and t.shape != shape[1:2] for t in (*theta, *self.buffers())
        ):
            return None
        if 0 in shape:  # PyTorch has another way then
            return None
        values = math.prod(shape) // shape[1]  # of each feature
        return shape if values > 1 or not self.training else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        gamma, beta = theta
        running = self.running_mean, self.running_var
        momentum = self.momentum or 0.0
        if self.batches is not None:
            self.batches.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.batches)
        a, mean, rstd = aten.native_batch_norm(
            h, gamma, beta, *running, self.training, momentum, self.eps
        )
        return a, Cache(h, None, (gamma, None), (mean, rstd, *running)) if needs else Cache()

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        gamma, (mean, rstd, running_mean, running_var) = cache.theta[0], cache.extra
        wanted = [needs.h, *needs.theta]
        grads = aten.native_batch_norm_backward(
            delta, kept(cache.h), gamma, running_mean, running_var, mean, rstd, self.training,
            self.eps, wanted,
        )  # fmt: skip
        return tuple([g if w else None for g, w in zip(grads, wanted, strict=True)])

    def formula(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        h, (mean, rstd, running_mean, running_var) = kept(cache.h), cache.extra
        if not self.training:
            mean, rstd = running_mean, torch.rsqrt(kept(running_var) + self.eps)
        column = (1, -1, *[1] * (h.dim() - 2))
        rows = tuple(d for d in range(h.dim()) if d != 1)
        r = kept(rstd).view(column)
        xhat = (h - kept(mean).view(column)) * r
        gamma = None if cache.theta[0] is None else cache.theta[0].view(column)
        over = rows if self.training else ()
        return _formula(delta, xhat, r, gamma, over, rows, needs, centred=self.training)


def _formula(
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
        _sum(delta * xhat, rows) if needs.theta[0] else None,
        _sum(delta, rows) if needs.theta[1] else None,
    )


def _sum(x: Tensor, rows: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Over those dimensions; sum(()) would be over all."""
    return x.sum(rows, keepdim=keepdim) if rows else x


def _rows_of(h: Tensor, over: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(h.dim() - len(over)))
