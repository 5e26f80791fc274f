"""The gated MLP of transformers by hand: SwiGLU with SiLU, GEGLU with GELU.

    z = x G^T,  u = x U^T,  m = f(z) * u,  o = m D^T          (biases optional)

    dC/dm = delta D            dC/dD = delta^T m
    dC/du = dC/dm * f(z)       dC/dU = (dC/du)^T x
    dC/dz = dC/dm * u * f'(z)  dC/dG = (dC/dz)^T x            dC/dx = dC/du U + dC/dz G

N batch, I features, H hidden features. x (..., I), G and U (H, I), z, u, m (..., H), D (I, H).
Kept for backward are x, u and z (or f(z), as f' needs): f(z) and m are computed again, so two
hidden activations wait for backward where autograd keeps up to four. Source: Shazeer, *GLU Variants
Improve Transformer*, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manualbp import activations, layers
from manualbp.eligible import alike, plain_module, refusal, unobserved
from manualbp.function import as_at_forward, wanted
from manualbp.layers import LINEAR, Cache, Elementwise, Needs, total
from manualbp.run import call


class Gated(torch.autograd.Function):
    """``Gated.apply(f, G, g, U, b, D, d, x)[0]``; the other outputs are what backward reads."""

    @staticmethod
    def forward(ctx: Any, f: Elementwise, *tensors: Any) -> Any:
        *parameters, x = tensors
        gate, up, down = parameters[0:2], parameters[2:4], parameters[4:6]
        needs = _needs(ctx.needs_input_grad[1:])
        z, gate_cache = LINEAR.forward(x, tuple(gate), needs[0])
        u, up_cache = LINEAR.forward(x, tuple(up), needs[1])
        a, activity = f.forward(z, (), Needs(True))
        o, down_cache = LINEAR.forward(a * u, tuple(down), needs[2])
        reads = any(needs)
        caches = [gate_cache, up_cache, activity if reads else Cache(), down_cache._replace(h=None)]
        hidden = [u, activity.h if activity.a is None else activity.a] if reads else []
        ctx.save_for_backward(*(t for c in caches for t in c.tensors()), *hidden[:1])
        ctx.f, ctx.caches = f, [cache.emptied() for cache in caches]
        ctx.present = [t is not None for t in tensors]
        ctx.set_materialize_grads(False)
        return (o, *hidden)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        delta, grad_u, grad_activity = grad_outputs
        gate, up, activity, down = (cache.filled(saved) for cache in ctx.caches)
        (u,) = saved
        needs = _needs(wanted(ctx, ctx.needs_input_grad[1:], ctx.present))
        recorded = torch.is_grad_enabled()
        rule = ctx.f.recorded if recorded else ctx.f.backward
        linear = LINEAR.recorded if recorded else LINEAR.backward
        if recorded:
            trained = [need.theta for need in _needs(ctx.needs_input_grad[1:])]
            kept = zip((gate, up, down), trained, strict=True)
            gate, up, down = (as_at_forward(LINEAR, cache, theta) for cache, theta in kept)
        a = activity.a if activity.a is not None else ctx.f.activation.f(activity.h)
        grads_down: Any = (None, None)
        grad_a = None
        if delta is not None:
            h = a * u if needs[2].theta[0] else None
            grad_m, *grads_down = linear(delta, down._replace(h=h), needs[2])
            if grad_m is not None:
                grad_u = total(grad_m * a, grad_u)
                grad_a = grad_m * u
        if activity.a is not None:
            grad_a, grad_activity = total(grad_a, grad_activity), None
        grad_z = None if grad_a is None else rule(grad_a, activity, Needs(True))[0]
        grad_z = total(grad_z, grad_activity)
        nothing = (None, None, None)
        x_u, *grads_up = nothing if grad_u is None else linear(grad_u, up, needs[1])
        x_z, *grads_gate = nothing if grad_z is None else linear(grad_z, gate, needs[0])
        return None, *grads_gate, *grads_up, *grads_down, total(x_u, x_z)


class GatedMLP(nn.Module):
    """o = (f(x G^T) * x U^T) D^T, the feed-forward block of Llama-like transformers, by hand.

    Args:
        features: I, of input and output.
        hidden: H, the width between.
        activation: f, a key of ``activations.ACTIVATIONS``: "silu" (SwiGLU), "gelu" or
            "gelu_tanh" (GEGLU), "sigmoid" (GLU).
        bias: whether the three projections have a bias.
        device, dtype: of the parameters.

    The parameters are called as in those models, so their weights load: ``gate_proj.weight`` is G,
    ``up_proj.weight`` U, ``down_proj.weight`` D. Outputs and gradients have the bits of
    ``down_proj(f(gate_proj(x)) * up_proj(x))`` under autograd.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: str = "silu",
        bias: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        f = activations.by_name(activation)
        self.gate_proj = nn.Linear(features, hidden, bias, device, dtype)
        self.up_proj = nn.Linear(features, hidden, bias, device, dtype)
        self.down_proj = nn.Linear(hidden, features, bias, device, dtype)
        self.act_fn = activations.to_module(f)

    def forward(self, x):  # type: ignore[no-untyped-def]
        """o (..., I) of x (..., I)."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return self._by_hand(x)

    @torch.jit.unused
    def _by_hand(self, x):  # type: ignore[no-untyped-def]
        output = gated([self.gate_proj, self.act_fn], [self.up_proj], [self.down_proj], x)
        if output is not None:
            return output
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def gated(
    left: Sequence[nn.Module], right: Sequence[nn.Module], rest: Sequence[nn.Module], x: Any
) -> Tensor | None:
    """rest(left(x) * right(x)) by hand; None where that cannot serve."""
    if not unobserved(x) or gate_refusal(left, right, rest) is not None:
        return None
    gate, up, after = _layers(left), _layers(right), _layers(rest)
    if len(gate) == 1:
        gate, up = up, gate
    thetas = gate[0][1], up[0][1], after[0][1]
    tensors = [x, *(t for theta in thetas for t in theta if t is not None)]
    hidden = LINEAR.output_shape(x.shape, thetas[0]), LINEAR.output_shape(x.shape, thetas[1])
    fits = hidden[0] == hidden[1] and hidden[0] and LINEAR.output_shape(hidden[0], thetas[2])
    plain = x.dim() == 2 or layers.row_major(x)
    if not (fits and plain and alike(tensors) and any(t.requires_grad for t in tensors)):
        return None
    o: Tensor = Gated.apply(gate[1][0], *(t for theta in thetas for t in theta), x)[0]  # type: ignore[no-untyped-call]
    first = next(i for i, module in enumerate(rest) if type(module) is nn.Linear)
    return call(rest[first + 1 :], o)


def gate_refusal(
    left: Sequence[nn.Module], right: Sequence[nn.Module], rest: Sequence[nn.Module]
) -> str | None:
    """Why rest(left(x) * right(x)) is not done by hand; None if it is.

    One side has to be a Linear and an activation, the other a Linear; ``rest`` begins with one.
    """
    for module in (*left, *right, *rest):
        if not plain_module(module) or layers.from_module(module) is None:
            return f"{type(module).__name__}: {refusal(module)}"
    kinds = [[type(layer) for layer, _ in _layers(m)] for m in (left, right, rest)]
    if sorted(kinds[:2], key=len) != [[layers.Linear], [layers.Linear, Elementwise]]:
        return "the two sides of the gate are not a Linear with an activation and a Linear"
    return None if kinds[2][:1] == [layers.Linear] else "no Linear directly behind the gate"


def _layers(modules: Sequence[nn.Module]) -> list[tuple[Any, Any]]:
    """The layers of known modules, without those that do nothing."""
    found = (layers.from_module(module) for module in modules)
    return [layer for layer in found if layer is not None and layer[0] is not None]


def _needs(wants: Sequence[bool]) -> list[Needs]:
    """Of gate, up and down; what comes up to the last decides whether dC/dm must be had."""
    g, g_b, u, u_b, d, d_b, x = wants
    return [Needs(x, (g, g_b)), Needs(x, (u, u_b)), Needs(any((x, g, g_b, u, u_b)), (d, d_b))]
