"""Linear layers by the fastest routines: the formulas of linear.py, other roundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from manualbp.fast.cpu import products as gemm
from manualbp.fast.cpu.products import NAMES
from manualbp.maths.activations import Activation
from manualbp.maths.layers.base import Cache, Layer, Needs, Theta, kept, own
from manualbp.maths.layers.elementwise import Elementwise
from manualbp.maths.layers.linear import Layout, Linear, rows


@dataclass(frozen=True)
class FastLinear(Linear):
    """a = f(h W^T + b) in z's own memory, f the identity or one whose f' is computed from a.

    delta <- delta * f',  dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W.
    """

    activation: Activation | None = None
    by_r_operator = False

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        weight, f = kept(theta[0]), self.activation
        name = "none" if f is None else NAMES[type(f)]
        a = gemm.linear(rows(h), weight, theta[1], name)
        a = a if h.dim() == 2 else own(a.view(*h.shape[:-1], weight.shape[0]))
        cache = self.cache(h, theta, needs)
        return a, cache._replace(a=a) if f is not None and needs else cache

    def reads_forward(self) -> bool:
        return self.activation is not None

    def cache(self, h: Tensor, theta: Theta, needs: Needs) -> Cache:
        read, weight = h if needs.theta[0] else None, kept(theta[0])
        layout = Layout(h.shape, False, True)
        if not needs.h:
            return Cache(read, None, (None, None), (None,), layout)
        return Cache(read, None, (weight, None), (weight.detach(),), layout)

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        if self.activation is not None:
            delta = self.activation.backward(delta, kept(cache.a))
        return self._products(delta, cache, needs)

    def backward_over(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        if self.activation is not None:
            delta = kept(Elementwise(self.activation).backward_over(delta, cache, needs)[0])
        return self._products(delta, cache, needs)

    def recorded(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        if self.activation is not None:
            delta = self.activation.recorded.backward(delta, kept(cache.a))
        return self._recorded_products(delta, cache, needs)

    def _products(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        g = rows(delta)
        grad_h = None
        if needs.h:
            w = kept(cache.extra[0])
            grad_h = gemm.input_gradient(g, w)
            if delta.dim() != 2:
                grad_h = grad_h.view(cache.layout.shape)
            if grad_h.dtype is not w.dtype:  # by autocast
                grad_h = grad_h.to(w.dtype)
        return (
            grad_h,
            gemm.weight_gradient(g, rows(kept(cache.h))) if needs.theta[0] else None,
            g.sum(0) if needs.theta[1] else None,
        )

    def _recorded_products(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """By ATen's, which have derivatives."""
        return Linear().recorded(delta, cache, needs)


@dataclass(frozen=True)
class ActivatedLinear(FastLinear):
    """o = g(f(h) W^T + b), f one whose f' is computed from h: of h and a = f(h) h alone is kept.

    a = f(h) once more,  dC/dW = delta^T a,  dC/db = sum_n delta,  dC/dh = (delta W) * f'(h), and
    for g, the activation of FastLinear, as there.
    """

    before: Activation = field(kw_only=True)  # f

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        a = self.before.f(h)
        o, found = super().forward(a, theta, needs)
        return o, self.cache(h, theta, needs)._replace(a=found.a)

    def cache(self, h: Tensor, theta: Theta, needs: Needs) -> Cache:
        read = h if needs.h or needs.theta[0] else None
        return super().cache(h, theta, needs)._replace(h=read)

    def _products(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """Of the delta of f(h) W^T + b; f' is multiplied over the fresh delta W."""
        h = cache.h
        a = self.before.f(kept(h)) if needs.theta[0] else None
        grad_a, *theta = super()._products(delta, cache._replace(h=a), needs)
        if grad_a is None:
            return None, *theta
        f = Elementwise(self.before)
        return *f.backward_over(grad_a, Cache(h=h), Needs(True)), *theta

    def _recorded_products(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        h = cache.h
        a = self.before.f(kept(h)) if needs.theta[0] else None
        grad_a, *theta = super()._recorded_products(delta, cache._replace(h=a), needs)
        return None if grad_a is None else self.before.recorded.backward(grad_a, kept(h)), *theta


def fastened(chain: Sequence[Layer], thetas: Sequence[Theta]) -> tuple[list[Layer], list[Theta]]:
    """The chain of fast layers.

    A Linear together with the activation behind it that can write over z, or with the one before
    it that cannot, of which z alone is kept then.
    """
    found: list[Layer] = []
    kept_thetas: list[Theta] = []
    for layer, theta in zip(chain, thetas, strict=True):
        last = found[-1] if found else None
        f = layer.activation if isinstance(layer, Elementwise) else None
        if isinstance(last, FastLinear) and last.activation is None and type(f) in NAMES:
            found[-1] = replace(last, activation=f)
            continue
        if not isinstance(layer, Linear):
            found.append(layer)
        elif isinstance(last, Elementwise) and last.activation.needs == "z":
            found[-1] = ActivatedLinear(before=last.activation)
            kept_thetas.pop()
        else:
            found.append(FastLinear())
        kept_thetas.append(theta)
    return found, kept_thetas
