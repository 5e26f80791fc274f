"""The guard in front of a chain: it serves while nothing has changed, and sees each change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import manualbp
from manualbp.fast import native
from manualbp.modules.plan import KEY

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")


def served() -> tuple[manualbp.Sequential, Any, Tensor]:
    """A model, its guard, and an x that the guard serves."""
    torch.manual_seed(0)
    model = manualbp.Sequential(nn.Linear(3, 4), nn.ELU(0.5), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    model(x)
    guard = vars(model)[KEY].guard
    assert runs(model, guard, x)
    return model, guard, x


def runs(model: nn.Module, guard: Any, x: Any) -> bool:
    return guard.run(model._modules, False, x) is not None


CHANGES: dict[str, Callable[[Any], object]] = {
    "another child": lambda m: m.__setitem__(1, nn.ELU(0.5)),
    "one more": lambda m: m.append(nn.Tanh()),
    "one less": lambda m: m.pop(-1),
    "an option": lambda m: setattr(m[1], "alpha", 2.0),
    "an attribute": lambda m: setattr(m[1], "forward", torch.sin),
    "a parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(4, 3))),
    "no bias": lambda m: setattr(m[2], "bias", None),
    "a forward hook": lambda m: m[0].register_forward_hook(lambda *args: None),
    "a backward hook": lambda m: m[1].register_full_backward_hook(lambda *args: None),
    "another class": lambda m: setattr(m[1], "__class__", nn.CELU),
    "dtype": lambda m: m.double(),
    "strides": lambda m: setattr(m[0].weight, "data", torch.ones(3, 4).t()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes(name: str) -> None:
    model, guard, x = served()
    CHANGES[name](model)
    assert not runs(model, guard, x)


def test_what_may_change() -> None:
    """Values, frozen parameters and gradients."""
    model, guard, x = served()
    with torch.no_grad():
        model[0].weight.mul_(2)
    model[0].bias.requires_grad_(False)
    model(x).sum().backward()
    assert runs(model, guard, x) and model[0].bias.grad is None


class Subclass(Tensor):
    pass


INPUTS: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda x: x[:4],
    "strides": lambda x: x.t().contiguous().t(),
    "dtype": lambda x: x.double(),
    "requires_grad": lambda x: x.clone().requires_grad_(),
    "subclass": lambda x: x.as_subclass(Subclass),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "nothing": lambda x: None,
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str) -> None:
    model, guard, x = served()
    assert not runs(model, guard, INPUTS[name](x))
    assert runs(model, guard, x.clone())


class Functions(TorchFunctionMode):
    def __torch_function__(self, f, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return f(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return f(*args, **(kwargs or {}))


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "functions": Functions,
    "operators": Operators,
    "forward mode": forward_ad.dual_level,
    "a default device": lambda: torch.device("cpu"),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    model, guard, x = served()
    with MODES[name]():
        assert not runs(model, guard, x)
    assert runs(model, guard, x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_transforms() -> None:
    model, guard, x = served()
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append(runs(model, guard, x))
        return x

    torch.func.vmap(watched)(x[None])
    torch.func.grad(lambda x: watched(x).sum())(x)
    torch.jit.trace(watched, x, check_trace=False)
    assert seen == [False] * 3


def test_without_a_graph() -> None:
    """Asked for, it holds under no_grad as well."""
    model, guard, _ = served()
    with torch.no_grad():
        assert guard.holds(model._modules, graph=False) and not guard.holds(model._modules)


def test_replaced_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((nn.ELU, "forward"), (nn.Linear, "__call__"), (nn.Module, "__call__")):
        model, guard, x = served()
        with monkeypatch.context() as m:
            m.setattr(owner, name, lambda self, x: x)
            assert not runs(model, guard, x)
        assert runs(model, guard, x)
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert not runs(model, guard, x)
    handle.remove()
    assert runs(model, guard, x)
