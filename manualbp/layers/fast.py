"""Linear layers by the fastest routines: the formulas of linear.py, other roundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from manualbp import gemm
from manualbp.activations import Activation, ReLU, Sigmoid, Tanh
from manualbp.layers.base import Cache, Layer, Needs, Theta, kept, own
from manualbp.layers.elementwise import Elementwise
from manualbp.layers.linear import Layout, Linear, rows

# f that can write over z, since its f' is computed from a.
OVER_Z: dict[type[Activation], str] = {ReLU: "relu", Tanh: "tanh", Sigmoid: "sigmoid"}


@dataclass(frozen=True)
class FastLinear(Linear):
    """a = f(h W^T + b) in z's own memory, f the identity or one whose f' is computed from a.

    delta <- delta * f',  dC/dW = delta^T h,  dC/db = sum_n delta,  dC/dh = delta W.
    """

    activation: Activation | None = None
    by_r_operator = False

    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        weight, f = kept(theta[0]), self.activation
        name = "none" if f is None else OVER_Z[type(f)]
        a = gemm.linear(rows(h), weight, theta[1], name)
        a = a if h.dim() == 2 else own(a.view(*h.shape[:-1], weight.shape[0]))
        read_h, read_a = h if needs.theta[0] else None, None if f is None or not needs else a
        layout = Layout(h.shape, False, True)
        if not needs.h:
            return a, Cache(read_h, read_a, (None, None), (None,), layout)
        return a, Cache(read_h, read_a, (weight, None), (weight.detach(),), layout)

    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        if self.activation is not None:
            delta = self.activation.backward(delta, kept(cache.a))
        return self._products(delta, cache, needs)

    def backward_over(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        if self.activation is not None:
            delta = kept(Elementwise(self.activation).backward_over(delta, cache, needs)[0])
        return self._products(delta, cache, needs)

    def recorded(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """By ATen's products, which have derivatives."""
        if self.activation is not None:
            delta = self.activation.recorded.backward(delta, kept(cache.a))
        return Linear().recorded(delta, cache, needs)

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


def fastened(chain: Sequence[Layer], thetas: Sequence[Theta]) -> tuple[list[Layer], list[Theta]]:
    """The chain of fast layers, a Linear together with the activation that can write over z."""
    found: list[Layer] = []
    kept_thetas: list[Theta] = []
    for layer, theta in zip(chain, thetas, strict=True):
        before = found[-1] if found else None
        f = layer.activation if isinstance(layer, Elementwise) else None
        if isinstance(before, FastLinear) and before.activation is None and type(f) in OVER_Z:
            found[-1] = FastLinear(f)
            continue
        found.append(FastLinear() if isinstance(layer, Linear) else layer)
        kept_thetas.append(theta)
    return found, kept_thetas
