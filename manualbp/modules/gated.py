"""GatedMLP, and what it shares with converted blocks: rest(left(x) * right(x)) by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.autograd.gated import apply_gated, inputs
from manualbp.autograd.torch_internals import scripted_as
from manualbp.maths import activations, layers
from manualbp.maths.activations import ActivationName
from manualbp.maths.gated import GatedLayers
from manualbp.maths.layers import Elementwise, Linear, Theta
from manualbp.modules import refusal
from manualbp.modules.plan import find_once, without_plan
from manualbp.modules.stretch import in_order, laid_out, states, stretches

Side = Sequence[nn.Module]


def _gated(self, x):  # type: ignore[no-untyped-def]
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class GatedMLP(nn.Module):
    """``o = (f(x G^T) * x U^T) D^T``, the feed-forward block of Llama-like transformers, by hand.

    Shapes: x and o (..., I); G and U (H, I), D (I, H).

    Args:
        features: I, of input and output.
        hidden: H, the width between.
        activation: f, by a name as for ``MLP``: "silu" (SwiGLU), "gelu" or "gelu_tanh" (GEGLU),
            "sigmoid" (GLU).
        bias: whether the three projections have a bias.
        device: device of the parameters.
        dtype: floating dtype of the parameters.

    The parameters are called as in those models, so their weights load: ``gate_proj.weight`` is G,
    ``up_proj.weight`` U, ``down_proj.weight`` D. Outputs and gradients have the bits of
    ``down_proj(f(gate_proj(x)) * up_proj(x))`` under autograd. Fast mode and low memory change
    nothing here: the products are the same, and no more is kept than the formulas read.

    Raises:
        ValueError: an unknown activation.

    Example:
        >>> import torch
        >>> import manualbp
        >>> block = manualbp.GatedMLP(8, 16)
        >>> block(torch.randn(5, 8)).shape
        torch.Size([5, 8])
        >>> {name: tuple(w.shape) for name, w in block.named_parameters()}
        {'gate_proj.weight': (16, 8), 'up_proj.weight': (16, 8), 'down_proj.weight': (8, 16)}
    """

    __getstate__ = without_plan

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: ActivationName = "silu",
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

    @scripted_as(_gated)
    def forward(self, x):  # type: ignore[no-untyped-def]
        """o (..., I) of x (..., I)."""
        o = gated(self, [self.gate_proj, self.act_fn], [self.up_proj], [self.down_proj], x)
        return _gated(self, x) if o is None else o  # type: ignore[no-untyped-call]


def gated(owner: nn.Module, left: Side, right: Side, rest: Side, x: Any) -> Tensor | None:
    """rest(left(x) * right(x)), left first, by hand; None where that cannot serve.

    ``owner`` keeps what was found about the modules.
    """
    if refusal.of_call(x) is not None:
        return None
    sides = (*left, *right, *rest)
    found = find_once(owner, sides, (len(left), len(right)), _find)
    return None if isinstance(found, str) else found(x)


def gate_refusal(left: Side, right: Side, rest: Side) -> str | None:
    """Why rest(left(x) * right(x)) is not done by hand; None if it is."""
    found = _find((*left, *right, *rest), len(left), len(right))
    return found if isinstance(found, str) else None


def _find(modules: Side, left: int, right: int) -> Gate | str:
    """The gate that the modules make, ``left`` of them on its left; or why they make none.

    One side has to be a Linear and an activation, the other a Linear. A Linear comes behind.
    """
    for module in modules:
        reason = refusal.of_module(module)
        if reason is not None:
            return f"{type(module).__name__}: {reason}"
    sides = _layers(modules[:left]), _layers(modules[left : left + right])
    gate_last = len(sides[0]) == 1
    gate, up = sides[gate_last], sides[not gate_last]
    kinds = [type(layer) for layer, _ in (*gate, *up)]
    if kinds != [Linear, Elementwise, Linear] or len(up) != 1:
        return "the two sides of the gate are not a Linear with an activation and a Linear"
    rest = modules[left + right :]
    down = _layers(rest)
    if not down or type(down[0][0]) is not Linear:
        return "no Linear directly behind the gate"
    first = next(i for i, module in enumerate(rest) if type(module) is nn.Linear)
    f, thetas = gate[1][0], (gate[0][1], up[0][1], down[0][1])
    return Gate(f, thetas, gate_last, stretches(rest[first + 1 :]))


def _layers(modules: Side) -> list[tuple[Any, Theta]]:
    """The layers and their parameters, without those that do nothing."""
    found: list[Any] = [layers.from_module(module) for module in modules]
    return [(layer, theta) for layer, theta in found if layer is not None]


class Gate:
    """The three projections of a gated block, and what comes behind them."""

    def __init__(
        self, f: Elementwise, thetas: tuple[Theta, Theta, Theta], gate_last: bool,
        behind: Sequence[Any],
    ) -> None:  # fmt: skip
        self.f, self.thetas, self.gate_last, self.behind = f, thetas, gate_last, behind
        self.tensors = [t for theta in thetas for t in theta if t is not None]
        # What x and the tensors were when they were found to fit, and the layers for those.
        self.ready: tuple[Any, Any] = (None, None)

    def __call__(self, x: Tensor) -> Any:
        state = states(x, self.tensors)
        ready, block = self.ready
        if ready != state:
            if not self._fits(x):
                return None
            block = self._block(x)
            self.ready = state, block
        gate, up, down = self.thetas
        tensors = inputs((x, *gate), (x, *up), (None, *down), self.gate_last)
        return in_order(self.behind, apply_gated(block, self.gate_last, *tensors)[0])

    def _fits(self, x: Tensor) -> bool:
        linear, (gate, up, down) = layers.LINEAR, self.thetas
        hidden = linear.output_shape(x.shape, gate)
        fits = hidden and hidden == linear.output_shape(x.shape, up)
        return bool(
            fits
            and linear.output_shape(hidden or (), down)
            and (x.dim() == 2 or layers.row_major(x))
            and refusal.of_tensors([x, *self.tensors]) is None
            and any(t.requires_grad for t in (x, *self.tensors))
        )

    def _block(self, x: Tensor) -> GatedLayers:
        gate, up, down = self.thetas
        two = [layers.LINEAR, layers.LINEAR]
        to_z, to_o = laid_out(two, [gate, down], x)
        to_u, _ = laid_out(two, [up, down], x)
        return GatedLayers(to_z, self.f, to_u, to_o)  # type: ignore[arg-type]
