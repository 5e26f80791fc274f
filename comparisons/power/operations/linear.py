"""Linear layers, with an activation and as a gate, by hand; and their faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace as Values

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.operations.operation import Bug, Gradients, Operation, in_tiles


def normal_cdf(z: Tensor) -> Tensor:
    """Φ(z)."""
    return 0.5 * torch.special.erfc(-z * math.sqrt(0.5))


def normal_density(z: Tensor) -> Tensor:
    """φ(z) = Φ'(z)."""
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def silu_slope(z: Tensor) -> Tensor:
    """σ (1 + z (1 - σ))."""
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


F_AND_SLOPE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (torch.clone, torch.ones_like),
    "relu": (torch.relu, lambda z: (z > 0).to(z.dtype)),
    "tanh": (torch.tanh, lambda z: 1 - z.tanh().square()),
    "sigmoid": (torch.sigmoid, lambda z: z.sigmoid() * (1 - z.sigmoid())),
    "gelu": (lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * normal_density(z)),
}


class LinearActivation(Operation):
    """z = x Wᵀ + b, y = f(z); dz = delta f'(z), dx = dz W, dW = dzᵀ x, db = Σₙ dz."""

    arguments = ("x", "w", "b")

    def __init__(self, f: str) -> None:
        self.f, (self.value, self.slope) = f, F_AND_SLOPE[f]

    def plain(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        z = F.linear(x, w, b)
        return F.gelu(z) if self.f == "gelu" else self.value(z)

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Values:
        z = x @ w.t() + b
        return Values(x=x, w=w, b=b, z=z, y=self.value(z))

    def backward(self, v: Values) -> Gradients:
        return linear(v, v.delta * self.slope(v.z))


class SwiGLU(Operation):
    """y = silu(a) u, a = x Gᵀ, u = x Uᵀ; da = delta u silu'(a), du = delta silu(a)."""

    arguments = ("x", "gate", "up")

    def plain(self, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(F.linear(x, gate)) * F.linear(x, up)

    def forward(self, x: Tensor, gate: Tensor, up: Tensor) -> Values:
        a, u = x @ gate.t(), x @ up.t()
        s = a.sigmoid()
        return Values(x=x, gate=gate, up=up, a=a, u=u, s=s, y=a * s * u)

    def backward(self, v: Values) -> Gradients:
        return gated(v, v.delta * v.u * silu_slope(v.a), v.delta * v.a * v.s)


def linear(v: Values, dz: Tensor) -> Gradients:
    """The three gradients of z = x Wᵀ + b."""
    return {"x": dz @ v.w, "w": dz.t() @ v.x, "b": dz.sum(0)}


def gated(v: Values, da: Tensor, du: Tensor) -> Gradients:
    """The three gradients of a = x Gᵀ, u = x Uᵀ."""
    return {"x": da @ v.gate + du @ v.up, "gate": da.t() @ v.x, "up": du.t() @ v.x}


def dz(v: Values) -> Tensor:
    """dz = delta f'(z), as it should be."""
    return v.delta * v.operation.slope(v.z)


LINEAR_FAULTS: list[Bug] = [
    ("dW transposed", lambda v: {"w": v.right["w"].t()}),
    ("dW of the other sign", lambda v: {"w": -v.right["w"]}),
    ("dW twice (accumulated again)", lambda v: {"w": 2 * v.right["w"]}),
    ("dW averaged over rows", lambda v: {"w": v.right["w"] / len(v.x)}),
    ("dW with y in place of x (stale buffer)", lambda v: {"w": dz(v).t() @ v.y}),
    ("dW without the last row", lambda v: {"w": dz(v)[:-1].t() @ v.x[:-1]}),
    ("dW without the last partial tile", lambda v: {"w": in_tiles(dz(v)).t() @ in_tiles(v.x)}),
    ("dW: last column not written", lambda v: {"w": F.pad(v.right["w"][:, :-1], (0, 1))}),
    ("dW rounded to bfloat16", lambda v: {"w": v.right["w"].bfloat16().to(v.w.dtype)}),
    ("dW with x one row late", lambda v: {"w": dz(v).t() @ v.x.roll(1, 0)}),
    ("db missing", lambda v: {"b": None}),
    ("db: mean for sum", lambda v: {"b": v.right["b"] / len(v.x)}),
    ("db from delta, without f'", lambda v: {"b": v.delta.sum(0)}),
    ("dx with W for its transpose", lambda v: {"x": dz(v) @ v.w.t()}),
    ("dx missing", lambda v: {"x": None}),
    ("f' forgotten", lambda v: linear(v, v.delta)),
    ("f' at a instead of z", lambda v: linear(v, v.delta * v.operation.slope(v.y))),
    ("tanh' as 1 - a, not squared", lambda v: linear(v, v.delta * (1 - v.y))),
]
RELU_FAULTS: list[Bug] = [
    ("mask from x instead of z", lambda v: linear(v, v.delta * (v.x > 0))),
    ("mask from delta instead of z", lambda v: linear(v, v.delta * (v.delta > 0))),
    ("mask z < 0", lambda v: linear(v, v.delta * (v.z < 0))),
    ("mask in dx only, not in dW", lambda v: {"w": v.delta.t() @ v.x}),
]
# For the first of eight layers: its gradients are of size 1e-6, too small for absolute tolerances.
VANISHING_FAULTS: list[Bug] = [
    ("dW missing", lambda v: {"w": None}),
    ("dW of the other sign", lambda v: {"w": -v.right["w"]}),
    ("dW twice (accumulated again)", lambda v: {"w": 2 * v.right["w"]}),
    ("db: mean for sum", lambda v: {"b": v.right["b"] / len(v.x)}),
    ("f' as a, not a (1 - a)", lambda v: linear(v, v.delta * v.y)),
]
GELU_FAULTS: list[Bug] = [
    ("z φ(z) missing in GELU'", lambda v: linear(v, v.delta * normal_cdf(v.z))),
    ("φ(z) without z", lambda v: linear(v, v.delta * (normal_cdf(v.z) + normal_density(v.z)))),
    ("GELU' of the tanh formula",
     lambda v: linear(v, torch.ops.aten.gelu_backward(v.delta, v.z, approximate="tanh"))),
    ("GELU' as that of SiLU", lambda v: linear(v, v.delta * silu_slope(v.z))),
]  # fmt: skip
SWIGLU_FAULTS: list[Bug] = [
    ("dGate and dUp swapped", lambda v: {"gate": v.right["up"], "up": v.right["gate"]}),
    ("SiLU' as the sigmoid", lambda v: gated(v, v.delta * v.u * v.s, v.delta * v.a * v.s)),
    ("dx of the gate alone", lambda v: {"x": (v.delta * v.u * silu_slope(v.a)) @ v.gate}),
    ("dUp with a for silu(a)", lambda v: {"up": (v.delta * v.a).t() @ v.x}),
]
