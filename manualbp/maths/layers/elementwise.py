"""Layers without parameters that act on every number by itself: activations and dropout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.maths.activations import Activation
from manualbp.maths.layers.base import Cache, Layer, Needs, Theta, kept

aten = torch.ops.aten


@dataclass(frozen=True)
class Elementwise(Layer):
    """a = f(z);  dC/dz = dC/da * f'(z), f' from z or a, as the activation needs (BP1, BP2).

    Behind a Linear, z of more than two dimensions is a view of (N, O) for PyTorch. Where it works
    ``in_place`` on that it copies delta to row-major first, and all behind it rounds by that.
    """

    activation: Activation
    in_place: bool = False  # and directly behind a Linear
    by_r_operator = True

    def prefers_r_operator(self, cache: Cache) -> bool:
        least, read = self.activation.r_operator_from, cache.h if cache.a is None else cache.a
        return least is not None and read is not None and read.numel() >= least

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        a = self.activation.f(h)
        if not needs.h:
            return a, Cache()
        return a, Cache(a=a) if self.activation.needs == "a" else Cache(h=h)

    def reads_forward(self) -> bool:
        return self.activation.needs == "a"

    def cache(self, h: Tensor, theta: Theta, needs: Needs) -> Cache:
        return Cache(h=h if needs.h else None)

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        return (self.activation.backward(self._laid_out(delta), self._read(cache)),)

    def backward_over(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """Saves a tensor of delta's size; in other layouts the kernel may choose another for it."""
        delta, read = self._laid_out(delta), self._read(cache)
        plain = delta.is_contiguous() and read.is_contiguous() and delta.dtype is read.dtype
        return (self.activation.backward(delta, read, delta if plain and alone(delta) else None),)

    def recorded(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        return (self.activation.recorded.backward(self._laid_out(delta), self._read(cache)),)

    def formula(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        return (self.activation.formula(delta, self._read(cache)),)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, cache: Cache, needs: Needs
    ) -> tuple[Tensor | None, Cache]:
        """a' = v f' for delta, the forward tangent of a;  v delta f'' for z (or its like for a)."""
        if v is None:
            return None, Cache()
        rule = self.activation.recorded
        tangent, read = rule.double_backward(v, delta, self._read(cache))
        return tangent, Cache(a=read) if self.activation.needs == "a" else Cache(h=read)

    def _laid_out(self, delta: Tensor) -> Tensor:
        return delta.contiguous() if self.in_place and delta.dim() > 2 else delta

    def _read(self, cache: Cache) -> Tensor:
        return kept(cache.a if self.activation.needs == "a" else cache.h)


def alone(delta: Tensor) -> bool:
    """Whether it is one tensor, not a batch of them under vmap, and nobody records what is done."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(delta)  # is_grads_batched's
    )


@dataclass(frozen=True)
class Dropout(Layer):
    """a = h m / (1 - p), m = 0 with probability p, else 1;  dC/dh = delta m / (1 - p).

    The mask is drawn as torch.nn.Dropout draws it, so one generator state gives the same mask.
    On CPU it is kept as one byte an element, where autograd keeps a number.
    """

    p: float
    by_r_operator = True

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        if h.is_cuda:
            a, mask = aten.native_dropout(h, self.p, True)
        else:
            noise = torch.empty_like(h).bernoulli_(1 - self.p)
            mask = noise.bool() if needs.h else None
            a = h * noise.div_(1 - self.p)
        return a, Cache(extra=(mask if needs.h else None,))

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        mask = kept(cache.extra[0])
        if delta.is_cuda:
            return (aten.native_dropout_backward(delta, mask, 1 / (1 - self.p)),)
        return (delta * mask.to(delta.dtype).div_(1 - self.p),)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, cache: Cache, needs: Needs
    ) -> tuple[Tensor | None, Cache]:
        """v m / (1 - p) for delta: linear in h, so nothing for h."""
        tangent = None if v is None else self.backward(v, cache, needs)[0]
        return tangent, Cache()
