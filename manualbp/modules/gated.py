"""The gated MLP of transformers by hand: SwiGLU with SiLU, GEGLU with GELU.

    z = x G^T,  u = x U^T,  m = f(z) * u,  o = m D^T          (biases optional)

    dC/dm = delta D            dC/dD = delta^T m
    dC/du = dC/dm * f(z)       dC/dU = (dC/du)^T x
    dC/dz = dC/dm * u * f'(z)  dC/dG = (dC/dz)^T x            dC/dx = dC/du U + dC/dz G

N batch, I features, H hidden features. x (..., I), G and U (H, I), z, u, m (..., H), D (I, H).
Kept for backward are x, u and z (or f(z), as f' needs): f(z) and m are computed again, so two
hidden activations wait for backward where autograd keeps up to four; with frozen weights fewer.
Source: Shazeer, *GLU Variants Improve Transformer*, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.autograd.chain import as_at_forward, wanted
from manualbp.autograd.torch_internals import alike, plain_module, refusal, unobserved
from manualbp.maths import activations, layers
from manualbp.maths.layers import LINEAR, Elementwise, Needs, total
from manualbp.modules.plan import call


class Gated(torch.autograd.Function):
    """``Gated.apply(f, swap, D, d, U, u, x, G, g, x)[0]``; the others are what backward reads.

    The later a projection is made the earlier autograd comes back to it, and in that order it adds
    up the gradients of x and of tied weights. With ``swap`` the one with f, G, is the later one and
    stands before U.
    """

    @staticmethod
    def forward(ctx: Any, f: Elementwise, swap: bool, *tensors: Any) -> Any:
        down, (*up, x), (*gate, _) = _split(tensors, swap)
        needs = _needs(ctx.needs_input_grad[2:], swap)
        to_down, to_u, to_z = needs
        z, gate_cache = LINEAR.forward(x, tuple(gate), to_z)
        u, up_cache = LINEAR.forward(x, tuple(up), to_u)
        a, activity = f.forward(z, (), Needs(bool(to_z)))
        m = a * u
        o, down_cache = LINEAR.forward(m, tuple(down), to_down)
        keeps_u = bool(to_z) or (bool(to_u) and to_down.theta[0])
        kept = (
            u if keeps_u else None,
            a if to_u and not to_z else None,
            m if to_down.theta[0] and not keeps_u else None,
        )
        caches = [down_cache._replace(h=None), up_cache, gate_cache, activity]
        ctx.save_for_backward(*(t for c in caches for t in c.tensors()), *kept)
        ctx.f, ctx.swap, ctx.caches = f, swap, [cache.emptied() for cache in caches]
        ctx.present = [t is not None for t in tensors]
        ctx.trained = [need.theta[0] for need in needs]
        ctx.hidden = keeps_u and bool(to_u), bool(to_z)
        ctx.set_materialize_grads(False)
        hidden = u, activity.h if activity.a is None else activity.a
        return (o, *(t for t, leaves in zip(hidden, ctx.hidden, strict=True) if leaves))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        delta, *hidden = grad_outputs
        caches = [cache.filled(saved) for cache in ctx.caches]
        u, a, m = saved
        to_down, to_u, to_z = _needs(wanted(ctx, ctx.needs_input_grad[2:], ctx.present), ctx.swap)
        rule, linear = ctx.f.backward, LINEAR.backward
        if torch.is_grad_enabled():
            rule, linear = ctx.f.recorded, LINEAR.recorded
            caches[:3] = map(as_at_forward, [LINEAR] * 3, caches, ctx.trained)
        down, up, gate, activity = caches
        if activity.a is not None or activity.h is not None:
            a = activity.a if activity.a is not None else ctx.f.activation.f(activity.h)
        grad_u = hidden.pop(0) if ctx.hidden[0] else None
        grad_activity = hidden.pop(0) if ctx.hidden[1] else None
        grads_down: Any = (None, None)
        grad_a = None
        if delta is not None:
            h = (a * u if m is None else m) if to_down.theta[0] else None
            grad_m, *grads_down = linear(delta, down._replace(h=h), to_down)
            if to_u:
                grad_u = total(grad_m * a, grad_u)
            if to_z:
                grad_a = grad_m * u
        if activity.a is not None:
            grad_a, grad_activity = total(grad_a, grad_activity), None
        grad_z = None if grad_a is None else rule(grad_a, activity, Needs(True))[0]
        grad_z = total(grad_z, grad_activity)
        nothing = (None, None, None)
        x_u, *grads_up = nothing if grad_u is None else linear(grad_u, up, to_u)
        x_z, *grads_gate = nothing if grad_z is None else linear(grad_z, gate, to_z)
        sides = [*grads_up, x_u], [*grads_gate, x_z]
        return None, None, *grads_down, *sides[ctx.swap], *sides[not ctx.swap]


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
    """rest(left(x) * right(x)), left first, by hand; None where that cannot serve."""
    found = _layers(left, right, rest) if unobserved(x) else "observed"
    if isinstance(found, str):
        return None
    gate, up, after = found
    swap = len(gate) == 1
    if swap:
        gate, up = up, gate
    thetas = gate[0][1], up[0][1], after[0][1]
    tensors = [x, *(t for theta in thetas for t in theta if t is not None)]
    hidden = LINEAR.output_shape(x.shape, thetas[0]), LINEAR.output_shape(x.shape, thetas[1])
    fits = hidden[0] == hidden[1] and hidden[0] and LINEAR.output_shape(hidden[0], thetas[2])
    plain = x.dim() == 2 or layers.row_major(x)
    if not (fits and plain and alike(tensors) and any(t.requires_grad for t in tensors)):
        return None
    sides = (*thetas[1], x), (*thetas[0], x)
    o: Tensor = Gated.apply(gate[1][0], swap, *thetas[2], *sides[swap], *sides[not swap])[0]  # type: ignore[no-untyped-call]
    first = next(i for i, module in enumerate(rest) if type(module) is nn.Linear)
    return call(rest[first + 1 :], o)


def gate_refusal(
    left: Sequence[nn.Module], right: Sequence[nn.Module], rest: Sequence[nn.Module]
) -> str | None:
    """Why rest(left(x) * right(x)) is not done by hand; None if it is."""
    found = _layers(left, right, rest)
    return found if isinstance(found, str) else None


def _layers(*sides: Sequence[nn.Module]) -> list[list[tuple[Any, Any]]] | str:
    """The layers of left, right and rest, without those that do nothing; or why they do not serve.

    One side has to be a Linear and an activation, the other a Linear; rest begins with one.
    """
    found: list[list[tuple[Any, Any]]] = []
    for side in sides:
        found.append([])
        for module in side:
            layer = layers.from_module(module) if plain_module(module) else None
            if layer is None:
                return f"{type(module).__name__}: {refusal(module)}"
            if layer[0] is not None:
                found[-1].append(layer)
    left, right, rest = ([type(layer) for layer, _ in side] for side in found)
    if sorted((left, right), key=len) != [[layers.Linear], [layers.Linear, Elementwise]]:
        return "the two sides of the gate are not a Linear with an activation and a Linear"
    return found if rest[:1] == [layers.Linear] else "no Linear directly behind the gate"


def _split(values: Sequence[Any], swap: bool) -> tuple[Any, Any, Any]:
    """What is per input of ``Gated``, for D, for U with x and for G with x."""
    down, first, last = values[:2], values[2:5], values[5:]
    return (down, last, first) if swap else (down, first, last)


def _needs(wants: Sequence[bool], swap: bool) -> list[Needs]:
    """Of D, U and G; what comes up to the first decides whether dC/dm must be had."""
    down, (u, u_b, x_u), (g, g_b, x_g) = _split(wants, swap)
    to_u, to_g = Needs(x_u, (u, u_b)), Needs(x_g, (g, g_b))
    return [Needs(bool(to_u) or bool(to_g), tuple(down)), to_u, to_g]
