"""A plan never goes stale: what surrounds a module changes after its first call; bit-exact."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as modules

import manualbp
from manualbp import fast
from manualbp.modules import stretch
from manualbp.modules.plan import KEY, Plan
from tests.helpers import differing
from tests.modules.changes import OWNERS, Net, input_for, is_by_hand, passed, twins, unequal

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


def patched(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda m: m.setattr(owner, name, value)


linear, call = nn.Linear.forward, nn.Module.__call__
SURROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "forward hooks": lambda m: modules.register_module_forward_hook(lambda module, args, o: o * 2),
    "forward pre hooks": lambda m: modules.register_module_forward_pre_hook(
        lambda module, args: (args[0] * 2,)
    ),
    "backward hooks": lambda m: modules.register_module_full_backward_hook(
        lambda module, grads, _: tuple(g if g is None else g * 2 for g in grads)
    ),
    "backward pre hooks": lambda m: modules.register_module_full_backward_pre_hook(
        lambda module, grads: tuple(g * 2 for g in grads)
    ),
    "forward of an activation": patched(nn.ELU, "forward", lambda self, x: x.sin()),
    "forward of Linear": patched(nn.Linear, "forward", lambda self, x: 2 * linear(self, x)),
    "call of an activation": patched(nn.ELU, "__call__", lambda self, x: 2 * call(self, x)),
    "call of Linear": patched(nn.Linear, "__call__", lambda self, x: 2 * call(self, x)),
    "call of every module": patched(nn.Module, "__call__", lambda self, x: 2 * call(self, x)),
}


def differing_in(owner: str, name: str) -> list[str]:
    """What differs inside these surroundings, and behind them."""
    nets = twins(owner)
    with pytest.MonkeyPatch.context() as m, SURROUNDINGS[name](m) or nullcontext():
        wrong = unequal(*nets)
    return wrong + unequal(*nets)


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("owner", OWNERS)
def test_surroundings(owner: str, name: str) -> None:
    assert differing_in(owner, name) == []
    assert is_by_hand(twins(owner)[0].module)


def test_planted_stale_plans_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that holds whatever happens: every patched class is seen; global hooks end a plan."""
    monkeypatch.setattr(Plan, "holds", lambda self, children, key: True)
    wrong = {name for name in SURROUNDINGS for owner in OWNERS if differing_in(owner, name)}
    assert wrong == {name for name in SURROUNDINGS if " of " in name} - {"call of every module"}


SETTINGS: list[tuple[Callable[..., AbstractContextManager[None]], str]] = [
    (manualbp.set_memory, "low"),
    (manualbp.set_mode, "fast"),
]


@pytest.mark.usefixtures("in_python")  # where `fast.run` is asked, and its bits are exact mode's
@pytest.mark.parametrize("owner", ["Sequential", "converted"])
@pytest.mark.parametrize(("setting", "choice"), SETTINGS, ids=[c for _, c in SETTINGS])
def test_settings(
    owner: str, setting: Any, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """For the process, and for one model: in force at once, and bit-exact (fast: a short batch)."""
    asked: list[object] = []
    right = fast.run
    monkeypatch.setattr(fast, "run", lambda *args: asked.append(args) or right(*args))
    model, twin = twins(owner)
    for net in (model, twin):  # statistics and random masks are not computed twice
        net.module.eval()
        net["norm"].__class__ = nn.Identity
    before = setting.now

    def in_force() -> bool:
        assert unequal(model, twin) == []
        asked.clear()
        node = type(model.module(input_for(model.module)).grad_fn).__name__
        assert node in ("ChainBackward", "RecomputedBackward")
        return node == "RecomputedBackward" if choice == "low" else bool(asked)

    assert not in_force()
    with setting(choice):
        assert in_force()
    assert not in_force()
    setting(choice, model.module)
    assert in_force()
    setting(before, model.module)
    with setting(choice):
        assert not in_force()


def test_mode_of_a_gate() -> None:
    """Bit-exact: it changes nothing."""
    model, twin = twins("GatedMLP")
    for mode in ("fast", "exact", "fast"):
        with manualbp.set_mode(mode):
            assert differing(passed(model.module), passed(twin.module)) == []


def others(net: Net, kind: str) -> tuple[dict[str, Tensor], list[Any]]:
    """Parameters for one call, and weak references to them and to what their graph holds."""
    torch.manual_seed(4)
    factor = torch.full((), 2.0)
    found = {}
    for name, p in net.module.named_parameters():
        leaf = torch.randn_like(p).requires_grad_()
        found[name] = leaf * factor.expand_as(p) if kind == "no leaf" else leaf
    return found, [weakref.ref(t) for t in (*found.values(), factor)]


@pytest.mark.parametrize("kind", ["leaf", "no leaf"])
@pytest.mark.parametrize("owner", OWNERS)
def test_functional_call(owner: str, kind: str) -> None:
    """Bit-exact, and afterwards with the own parameters; nothing of the call stays alive."""
    nets, found, references = twins(owner), [], []
    for net in nets:
        named, alive = others(net, kind)
        references += alive
        x = torch.randn(5, 33, generator=torch.Generator().manual_seed(5))
        torch.manual_seed(6)
        output = functional_call(net.module, named, (x,))
        grads = torch.autograd.grad(output.square().sum(), list(named.values()))
        found.append(dict(zip(["output", *named], [output.detach(), *grads], strict=True)))
        del named, output
    assert differing(*found) == []
    assert [r() for r in references if r() is not None] == []
    assert unequal(*nets) == []


def test_planted_plans_that_are_always_kept_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "may_be_kept", lambda self: True)
    for kind in ("leaf", "no leaf"):
        with pytest.raises(AssertionError):
            test_functional_call("Sequential", kind)


def replica(module: nn.Module) -> nn.Module:
    """As torch.nn.parallel.replicate makes one for a device."""
    memo = {each: each._replicate_for_data_parallel() for each in module.modules()}
    for each, copied in memo.items():
        for name, child in each._modules.items():
            setattr(copied, name, memo[child])
            copied._modules[name] = memo[child]
        for name, parameter in each._parameters.items():
            setattr(copied, name, None if parameter is None else parameter * 1)
    return memo[module]


@pytest.mark.parametrize("owner", OWNERS)
def test_replicas(owner: str) -> None:
    """Bit-exact; the module's own plan stays, and a replica keeps none with its tensors."""
    model, twin = twins(owner)
    own, found = vars(model.module)[KEY], []
    for net in (model, twin):
        first, second = replica(net.module), replica(net.module)
        x = torch.randn(5, 33, generator=torch.Generator().manual_seed(5))
        torch.manual_seed(6)
        output = first(x) + second(x * 2)
        grads = torch.autograd.grad(output.square().sum(), list(net.module.parameters()))
        found.append(dict(enumerate([output.detach(), *grads])))
        assert vars(first).get(KEY) in (None, own)
    assert differing(*found) == []  # type: ignore[arg-type]
    assert vars(model.module)[KEY] is own and unequal(model, twin) == []


@pytest.fixture
def quickly_switched() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(steps: int) -> int:
    """How many steps go wrong where threads with batches of their own share one module."""
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(33, 33), nn.Tanh(), nn.Linear(33, 33))
    model, wrong = manualbp.Sequential(*twin), []
    inputs = [torch.randn(64, 33), torch.randn(33, 64).t(), torch.randn(2, 5, 33), torch.randn(33)]

    def step(net: nn.Module, x: Tensor) -> list[Tensor]:
        output = net(x)
        wanted = [x, *net.parameters()]
        return [output.detach(), *torch.autograd.grad(output, wanted, output.detach().cos())]

    def run(x: Tensor) -> None:
        expected = step(twin, x)
        for _ in range(steps):
            for ours, theirs in zip(step(model, x), expected, strict=True):
                if not torch.equal(ours, theirs) or ours.stride() != theirs.stride():
                    wrong.append(x.shape)

    copies = [x.detach().requires_grad_() for x in inputs for _ in range(2)]
    threads = [threading.Thread(target=run, args=(x,)) for x in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(wrong)


@pytest.mark.usefixtures("quickly_switched")
def test_threads() -> None:
    """Bit-exact, strides included."""
    assert in_threads(50) == 0


@pytest.mark.usefixtures("quickly_switched")
def test_planted_mix_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of one thread's batch, run on another's."""
    monkeypatch.setattr(stretch, "states", lambda x, tensors: "the same")
    assert in_threads(5) > 0
