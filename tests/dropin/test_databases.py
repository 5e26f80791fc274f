"""Ours beside torch.nn and torch.optim on the samples that PyTorch's own test suite has of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp import fast
from manualbp.maths import layers, losses
from manualbp.maths.activations import Tanh
from manualbp.modules.cost import LOSSES
from tests.dropin.databases import databases, error_samples, samples
from tests.helpers import autograd_twin, differing, gradients

WIDE = [torch.float32, torch.float64]
HALF = [torch.float16, torch.bfloat16]
LAYERS = [kind for kind in layers.MODULES if kind not in (nn.Identity, nn.Dropout)]  # it lacks both


def by_hand(tensor: Tensor) -> bool:
    return type(tensor.grad_fn).__name__ in ("ChainBackward", "CostBackward")


def cost_and_gradient(loss: nn.Module, o: Tensor, y: Tensor) -> tuple[dict[str, Tensor], bool]:
    o = o.detach().clone().requires_grad_()
    cost = loss(o, y.detach())
    cost.backward(cost.detach().cos())
    return {"cost": cost.detach(), "gradient": o.grad}, by_hand(cost)


def unequal_losses(kind: type[nn.Module], dtype: torch.dtype) -> tuple[list[str], int]:
    """The samples that differ in a bit, and how many ran by hand."""
    wrong, hand = [], 0
    for sample in samples(kind, dtype):
        made, called = sample.constructor_input, sample.forward_input
        ours = getattr(manualbp, kind.__name__)(*made.args, **made.kwargs)
        found, ran = cost_and_gradient(ours, *called.args)
        expected, _ = cost_and_gradient(kind(*made.args, **made.kwargs), *called.args)
        wrong += [f"{sample.desc}: {name}" for name in differing(found, expected)]
        hand += ran
    return wrong, hand


@pytest.mark.slow
def test_losses() -> None:
    """Bit-exact."""
    for kind in LOSSES:
        wrong, hand = unequal_losses(kind, torch.float32)
        assert wrong == [] and hand > 0, kind


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, *HALF], ids=str)
@pytest.mark.parametrize("kind", LOSSES)
def test_losses_in_other_dtypes(kind: type[nn.Module], dtype: torch.dtype) -> None:
    """Bit-exact."""
    wrong, hand = unequal_losses(kind, dtype)
    assert wrong == [] and hand > 0


def results(net: nn.Sequential, x: Tensor) -> Any:
    """Output and all gradients, or the error."""
    try:
        return gradients(net, x)
    except (RuntimeError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [*WIDE, *HALF], ids=str)
@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_behind_a_linear(kind: type[nn.Module], dtype: torch.dtype, training: bool) -> None:
    """Bit-exact; PyTorch's error where a sample does not fit behind a Linear."""
    hand = 0
    for sample in samples(kind, dtype, training):
        made, called = sample.constructor_input, sample.forward_input
        (x,) = [*called.args, *called.kwargs.values()]
        torch.manual_seed(1)
        layer = kind(*made.args, **made.kwargs).to(dtype)
        width = x.shape[-1] if x.dim() else 1
        model = manualbp.Sequential(nn.Linear(width, width, dtype=dtype), layer).train(training)
        twin = autograd_twin(model)
        found, expected = results(model, x), results(twin, x)
        if isinstance(expected, tuple):
            assert found == expected, sample.desc
        else:
            assert differing(found, expected) == [], sample.desc
            hand += by_hand(copy.deepcopy(model)(x))
    assert hand > 0 or (kind is nn.RMSNorm and dtype in HALF)  # which falls back


def raised(step: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as found:
        step()
    return found.value


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, *LOSSES])
def test_errors(kind: type[nn.Module]) -> None:
    """An ``except`` of PyTorch's error catches ours."""
    for sample in error_samples(kind):
        wrong = sample.module_error_input
        made, called = wrong.constructor_input, wrong.forward_input

        def step(ours: bool) -> None:
            own = getattr(manualbp, kind.__name__, kind) if ours else kind
            module = own(*made.args, **made.kwargs)  # noqa: B023
            if kind is nn.BatchNorm1d:
                module = (manualbp if ours else nn).Sequential(nn.Identity(), module)
            module(*called.args, **called.kwargs)  # noqa: B023

        assert isinstance(raised(lambda: step(True)), type(raised(lambda: step(False))))
    assert len(error_samples(nn.HuberLoss)) > 0 and len(error_samples(nn.CrossEntropyLoss)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [*WIDE, *HALF], ids=str)
def test_descent(dtype: torch.dtype) -> None:
    """Bit-exact on every sample of SGD that says nothing but a learning rate."""
    info, used = databases()[1][torch.optim.SGD], 0
    for sample in info.optim_inputs_func("cpu", dtype):
        if set(sample.kwargs) <= {"lr"}:
            torch.manual_seed(0)
            w = [torch.randn(5, 3, dtype=dtype), torch.randn(4, dtype=dtype), torch.zeros(())]
            pair = [[nn.Parameter(t.clone()) for t in w] for _ in range(2)]
            kinds = manualbp.GradientDescent, torch.optim.SGD
            optimizers = [kind(p, **sample.kwargs) for kind, p in zip(kinds, pair, strict=True)]
            for _ in range(3):
                for ours, theirs in zip(*pair, strict=True):
                    ours.grad = torch.randn_like(ours)
                    theirs.grad = ours.grad.clone()
                for optimizer in optimizers:
                    optimizer.step()
            named = [{str(i): p.detach() for i, p in enumerate(ps)} for ps in pair]
            assert differing(*named) == [], sample.desc
            assert not torch.equal(named[0]["0"], w[0]) and (used := used + 1)
    assert used > 2


@pytest.mark.slow
def test_errors_of_optimizers() -> None:
    """Those that torch.optim.SGD makes of parameters and learning rates."""
    info, used = databases()[1][torch.optim.SGD], 0
    for sample in info.optim_error_inputs_func("cpu", torch.float32):
        wrong = sample.optimizer_error_input
        if set(wrong.kwargs) <= {"lr"}:
            params = [nn.Parameter(torch.zeros(1))] if wrong.params is None else wrong.params
            error = raised(lambda: manualbp.GradientDescent(params, **wrong.kwargs))  # noqa: B023
            assert isinstance(error, sample.error_type), wrong.desc
            used += 1
    assert used > 4


@pytest.mark.slow
@pytest.mark.usefixtures("in_python")
def test_planted_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are off by a bit, and a step that is."""

    def next_bit(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: rule(*args).nextafter(torch.ones(()))

    monkeypatch.setattr(losses.MSE, "backward", next_bit(losses.MSE.backward))
    assert unequal_losses(nn.MSELoss, torch.float32)[0] != []
    monkeypatch.setattr(Tanh, "backward", next_bit(Tanh.backward))
    with pytest.raises(AssertionError):
        test_behind_a_linear(nn.Tanh, torch.float32, True)
    right = fast.descend
    monkeypatch.setattr(fast, "descend", lambda w, lr: right(w, lr * 1.000001))
    with pytest.raises(AssertionError):
        test_descent(torch.float32)
