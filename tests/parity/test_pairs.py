"""Pairs as they are met: each agrees as it is, with power, and differs with one fault planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import manualbp
from manualbp.fast import one_pass, tiles
from manualbp.maths.activations.sigmoids import Tanh
from manualbp.maths.layers.linear import Linear
from manualbp.parity import compare_gradients
from tests.helpers import autograd_twin


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def agree(candidate: Any, reference: Any, inputs: Any, loss: Any = None, **options: Any) -> None:
    """The verdict is "agree", and every standard fault would have been seen."""
    report = compare_gradients(candidate, reference, inputs, loss, **options)
    assert report.agrees, (report.verdict, report.differing, report.power)


def blamed(candidate: Any, reference: Any, inputs: Any, *args: Any, **options: Any) -> set[str]:
    """The names of the tensors that differ."""
    report = compare_gradients(candidate, reference, inputs, *args, power=False, **options)
    return {tensor.name for tensor in report.differing}


X = normal(6, 4)


# manualbp against nn.Sequential.

WIDTHS = [(3, 1), (4, 8, 3), (5, 16, 16, 2)]


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "softplus", "sigmoid"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_mlp_has_autograds_bits(widths: tuple[int, ...], activation: str) -> None:
    torch.manual_seed(0)
    ours = manualbp.MLP(widths, activation=activation)
    x, theirs = normal(9, widths[0]), autograd_twin(ours)
    agree(ours, theirs, x, exact=True, seeds=(0,))
    agree(ours, theirs, x, also="second_order", seeds=(0,))


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_fast_mode_is_held_to_autograds_own_error(activation: str) -> None:
    torch.manual_seed(0)
    ours = manualbp.MLP((48, 64, 48), activation=activation)
    manualbp.set_mode("fast", ours)
    agree(ours, autograd_twin(ours), normal(64, 48), nn.MSELoss(), target=normal(64, 48, seed=1))


@pytest.mark.usefixtures("in_python")  # the fault is planted there
def test_fused_loss_is_one_arm_of_two_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate has the loss inside, so the reference gets it inside as well."""

    class WithLoss(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.loss = model, nn.CrossEntropyLoss()

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return self.loss(self.model(input), target)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    candidate = manualbp.FusedLoss(model, nn.CrossEntropyLoss(), tile_rows=16)
    reference, inputs = WithLoss(autograd_twin(model)), (normal(40, 6), torch.arange(40) % 3)
    agree(candidate, reference, inputs)
    # the last, shorter tile is left out
    monkeypatch.setattr(one_pass, "slices", lambda count, tile: tiles.slices(count, tile)[:-1])
    assert {"output", "input[0].grad"} < blamed(candidate, reference, inputs)


def _no_square(self: Tanh, delta: Tensor, a: Tensor, into: Tensor | None = None) -> Tensor:
    return delta * (1 - a)


_backward = Linear.backward


def _mean_for_sum(self: Linear, delta: Tensor, needs: Any, tape: Any, grads: Any, *how: Any) -> Any:
    grad_h = _backward(self, delta, needs, tape, grads, *how)
    grads[-2] = None if grads[-2] is None else grads[-2] / len(delta)
    return grad_h


def _transposed(self: Linear, delta: Tensor, needs: Any, tape: Any, grads: Any, *how: Any) -> Any:
    grad_h = _backward(self, delta, needs, tape, grads, *how)
    grad_weight = grads[-1]
    if grad_weight is not None and len(grad_weight) == grad_weight[0].numel():
        grads[-1] = grad_weight.t()
    return grad_h


PLANTED: list[tuple[type, Callable[..., Any], set[str]]] = [
    (Tanh, _no_square, {"input.grad", "0.weight.grad", "0.bias.grad"}),
    (Linear, _mean_for_sum, {"0.bias.grad", "2.bias.grad"}),
    (Linear, _transposed, {"0.weight.grad"}),
]


@pytest.mark.usefixtures("in_python")  # the fault is planted there
@pytest.mark.parametrize(
    ("where", "fault", "names"), PLANTED, ids=lambda p: getattr(p, "__name__", "")
)
def test_a_fault_inside_the_mlp_is_seen_where_it_shows(
    where: type, fault: Callable[..., Any], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ours = manualbp.MLP((5, 5, 2), activation="tanh")
    monkeypatch.setattr(where, "backward", fault)
    assert blamed(ours, autograd_twin(ours), normal(9, 5)) == names


# torch.compile against eager.


@pytest.mark.slow
def test_compiled_against_eager() -> None:
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    own = autograd_twin(eager)
    compiled = torch.compile(own)
    agree(compiled, eager, normal(6, 4))
    own[0].weight.register_hook(lambda g: g * 1.001)
    assert blamed(compiled, eager, normal(6, 4)) == {"0.weight.grad"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("to_script", [torch.jit.script, lambda net: torch.jit.trace(net, X)],
                         ids=["script", "trace"])  # fmt: skip
def test_scripted_against_eager(to_script: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    scripted = to_script(autograd_twin(eager))
    agree(scripted, eager, X)
    dict(scripted.named_parameters())["0.weight"].register_hook(lambda g: -g)
    assert blamed(scripted, eager, X) == {"0.weight.grad"}


def test_checkpointed_against_kept() -> None:
    """Activations computed once more, in second order too."""

    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    torch.manual_seed(0)
    kept = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2))
    candidate = Checkpointed(*autograd_twin(kept))
    agree(candidate, kept, X, exact=True)
    agree(candidate, kept, X, also="second_order")


# A LayerNorm by hand.


class Norm(torch.autograd.Function):
    """x^ = (x - mean x) r,  a = x^ w + b;  dC/dx = r (g - mean g - x^ mean(g x^)),  g = delta w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        r = (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
        hat = (x - x.mean(-1, keepdim=True)) * r
        ctx.save_for_backward(hat, r, weight)
        return hat * weight + bias

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        hat, r, weight = ctx.saved_tensors
        g = delta * weight
        along = hat * (g * hat).mean(-1, keepdim=True)
        dims = tuple(range(delta.dim() - 1))
        return r * (g - g.mean(-1, keepdim=True) - along), (delta * hat).sum(dims), delta.sum(dims)


class NoMean(Norm):
    """The mean of g is forgotten."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        _, r, weight = ctx.saved_tensors
        grad_x, *rest = Norm.backward(ctx, delta)
        return grad_x + r * (delta * weight).mean(-1, keepdim=True), *rest


class Unbiased(Norm):
    """The gradient as if the variance divided by n - 1."""

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        hat, r, weight = ctx.saved_tensors
        n = delta.shape[-1]
        grad_x, *rest = Norm.backward(ctx, delta)
        along = hat * (delta * weight * hat).mean(-1, keepdim=True)
        return grad_x - r * along / (n - 1), *rest


class ByHand(nn.LayerNorm):
    """A module around it."""

    function: type[Norm] = Norm

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, self.weight, self.bias)


def norms() -> tuple[ByHand, nn.LayerNorm]:
    torch.manual_seed(0)
    reference, candidate = nn.LayerNorm(6), ByHand(6)
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    candidate.load_state_dict(reference.state_dict())
    return candidate, reference


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 6), (2, 5, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_layer_norm_as_a_module(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    candidate, reference = norms()
    agree(candidate, reference, normal(*shape), dtype=dtype)
    for wrong in (NoMean, Unbiased):
        candidate.function = wrong
        assert blamed(candidate, reference, normal(*shape), dtype=dtype) == {"input.grad"}


def test_layer_norm_as_a_bare_function() -> None:
    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (6,), weight, bias)

    inputs = normal(7, 6), normal(6, seed=1), normal(6, seed=2)
    agree(Norm, reference, inputs)
    for wrong in (NoMean, Unbiased):
        assert blamed(wrong, reference, inputs) == {"input[0].grad"}
