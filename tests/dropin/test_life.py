"""What happens to a module in its life: hooks, wrappers, exchanged children, copies, files."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import manualbp
from manualbp.autograd import torch_internals
from tests.dropin.nets import NAMES, backpropagated, is_by_hand, pair, rows, unequal

Net = Any  # a module whose children are looked at


def first(net: Net) -> nn.Linear:
    return next(m for m in net.modules() if type(m) is nn.Linear)


def hook_calls(net: Net) -> list[Any]:
    """Every kind of module hook, on the network and on its first layer; what they saw."""
    seen: list[Any] = []
    for where, module in (("net", net), ("child", first(net))):
        module.register_forward_pre_hook(
            lambda m, args, kwargs, w=where: seen.append((w, "pre", *args)), with_kwargs=True
        )
        module.register_forward_hook(
            lambda m, args, kwargs, out, w=where: seen.append((w, "post", *args, out)),
            with_kwargs=True,
        )
        module.register_full_backward_pre_hook(lambda m, g, w=where: seen.append((w, "down", *g)))
        module.register_full_backward_hook(
            lambda m, g, h, w=where: seen.append((w, "through", *g, *h))
        )
    return seen


# PyTorch refuses an in-place activation behind a layer with a full backward hook.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("relu", "elu")])
def test_module_hooks(name: str) -> None:
    """Bit-exact, in the same order."""
    found = []
    for net in pair(name):
        seen = hook_calls(net)
        found.append([backpropagated(net), seen])
    assert [e[:2] for e in found[0][1]] == [e[:2] for e in found[1][1]]
    assert unequal(*found) == ""


HOOKS = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("name", ["deep", "layernorm", "gated", "block"])
def test_every_hook_alone(name: str, kind: str) -> None:
    """On any child, or on all modules: it is called as often, and the children with it."""
    for index in (0, 1, None):
        counts = []
        for net in pair(name):
            seen: list[str] = []

            def note(module: nn.Module, *args: Any, seen: list[str] = seen) -> None:
                seen.append(type(module).__name__)

            child = net if index is None else list(net.children())[index]
            register = getattr(child, f"register_{kind}")
            if index is None:
                register = getattr(nn.modules.module, f"register_module_{kind}")
            handle = register(note)
            try:
                net(rows(grad=True)).sum().backward()
            finally:
                handle.remove()
            counts.append([kind for kind in seen if kind not in ("GatedMLP", "Gate")])
        assert counts[0] == counts[1] != []


def test_planted_blindness_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that passes over its children's hooks: the test above must see it."""
    monkeypatch.setattr(torch_internals, "hooks", lambda module: None)
    with pytest.raises(AssertionError):
        test_module_hooks("deep")


@pytest.mark.parametrize("name", ["deep", "gated", "block"])
def test_hooks_that_change_what_passes(name: str) -> None:
    """Bit-exact; on the network the chain itself still runs by hand."""
    found = []
    for net in pair(name):
        net.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        net.register_forward_hook(lambda m, args, out: out.sin())
        net.register_full_backward_hook(lambda m, g, h: (g[0] * 3,))
        net.register_full_backward_pre_hook(lambda m, g: (g[0] + 1,))
        found.append(backpropagated(net))
    assert unequal(*found) == ""
    ours, _ = pair(name)
    seen: list[Tensor] = []
    ours.register_forward_hook(lambda m, args, out: seen.append(out))
    ours(rows())
    assert is_by_hand(seen[0])


@pytest.mark.parametrize("name", NAMES)
def test_tensor_hooks(name: str) -> None:
    """Bit-exact: on parameters, before and after accumulation, on input, output and its node."""
    found = []
    for net in pair(name):
        seen: list[Any] = []
        for p in net.parameters():
            p.register_hook(lambda g: g * 2)
            p.register_post_accumulate_grad_hook(lambda p, s=seen: s.append(p.grad.clone()))
        x = rows(grad=True)
        x.register_hook(lambda g, s=seen: s.append(g))
        torch.manual_seed(1)
        output = net(x)
        output.register_hook(lambda g: g + 1)
        output.retain_grad()
        output.grad_fn.register_prehook(lambda g, s=seen: s.append(g[0]))
        output.pow(2).sum().backward()
        # Which parameter comes first may differ: the gradients of a chain leave together.
        order = sorted(range(len(seen)), key=lambda i: str((seen[i].shape, seen[i].sum().item())))
        found.append([[seen[i] for i in order], output.grad, [p.grad for p in net.parameters()]])
    assert unequal(*found, rtol=0) == ""


def test_patched_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """nn.Module.__call__ in other hands, as tracers and counters do it: every child is called."""
    right, found = nn.Module.__call__, []
    for net in pair("deep"):
        seen: list[str] = []

        def call(self: Any, *args: Any, seen: list[str] = seen) -> Any:
            seen.append(type(self).__name__)
            return right(self, *args)

        monkeypatch.setattr(nn.Module, "__call__", call)
        net(rows())
        found.append(seen)
    assert found[0] == found[1] and len(found[0]) == 6


def test_optimizer_in_backward() -> None:
    """Bit-exact: every parameter steps as soon as its gradient is there."""
    found = []
    for net in pair("deep"):
        optimizers = {p: torch.optim.Adam([p]) for p in net.parameters()}

        def step(p: Tensor, optimizers: Any = optimizers) -> None:
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in net.parameters():
            p.register_post_accumulate_grad_hook(step)
        for _ in range(5):
            net(rows()).pow(2).sum().backward()
        found.append(list(net.parameters()))
    assert unequal(*found) == ""


def normed(kind: Callable[..., nn.Module]) -> Callable[[Net], object]:
    return lambda net: kind(first(net))


def unpruned(net: Net) -> None:
    prune.l1_unstructured(first(net), "weight", 0.3)
    net(rows())
    prune.remove(first(net), "weight")


def tied(net: Net) -> None:
    """One square Linear in two places."""
    net[2] = nn.Linear(9, 9).double()
    net.insert(3, net[2])
    net[5] = nn.Linear(9, 6).double()


CHANGES: dict[str, Callable[[Net], object]] = {
    "weight_norm": normed(parametrizations.weight_norm),
    "spectral_norm": normed(parametrizations.spectral_norm),
    "orthogonal": normed(parametrizations.orthogonal),
    "pruned": lambda net: prune.random_unstructured(first(net), "weight", 0.5),
    "pruned for good": unpruned,
    "frozen layer": lambda net: first(net).requires_grad_(False),
    "frozen weight": lambda net: first(net).weight.requires_grad_(False),
    "frozen": lambda net: net.requires_grad_(False),
    "no bias": lambda net: first(net).register_parameter("bias", None),
    "tied": tied,
    "replaced": lambda net: net.__setitem__(0, nn.Linear(6, 9, bias=False).double()),
    "appended": lambda net: net.append(nn.Linear(6, 3).double()),
    "inserted": lambda net: net.insert(1, nn.LayerNorm(9).double()),
    "extended": lambda net: net.extend([nn.ReLU(), nn.Linear(6, 2).double()]),
    "deleted": lambda net: net.__delitem__(slice(1, 2)),
    "popped": lambda net: net.pop(-1),
    "set by name": lambda net: setattr(net, "1", nn.Hardtanh()),
    "added": lambda net: net.__iadd__(nn.Sequential(nn.Sigmoid())),
    "forward on an instance": lambda net: setattr(net[1], "forward", torch.sin),
    "swapped tensors": lambda net: torch.utils.swap_tensors(
        net[0].weight, nn.Parameter(net[0].weight.detach() * 2)
    ),
    "new data": lambda net: setattr(net[0].weight, "data", net[0].weight.data * 2),
    "bias as a buffer": lambda net: (
        net[0].register_parameter("bias", None)
        or delattr(net[0], "bias")
        or net[0].register_buffer("bias", torch.ones(9, dtype=torch.float64))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_after_construction(change: str) -> None:
    """Bit-exact, also when the network has run before."""
    for ran in (False, True):
        found = []
        for net in pair("deep"):
            if ran:
                backpropagated(net)
                net.zero_grad()
            torch.manual_seed(3)
            CHANGES[change](net)
            if change == "frozen":
                found.append([net(rows())])
                continue
            found.append(backpropagated(net))
        assert unequal(*found) == ""


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_modules() -> None:
    """Bit-exact: shapes that come with the first input."""
    found = []
    for kind in (manualbp.Sequential, nn.Sequential):
        torch.manual_seed(0)
        net = kind(nn.LazyLinear(9), nn.Tanh(), nn.LazyBatchNorm1d(), nn.LazyLinear(6)).double()
        first_pass = backpropagated(net)
        found.append([first_pass, backpropagated(net)])
        if kind is manualbp.Sequential:
            assert is_by_hand(net(rows()))
    assert unequal(*found) == ""


def saved(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", NAMES)
def test_copies(name: str, way: str) -> None:
    """Bit-exact, by hand again, of the same class; the original has not changed."""
    ours, theirs = pair(name)
    made = COPIES[way](ours)
    assert type(made) is type(ours) and list(made.state_dict()) == list(ours.state_dict())
    assert unequal(backpropagated(made), backpropagated(theirs)) == ""
    assert is_by_hand(made(rows())) is is_by_hand(ours(rows()))


@pytest.mark.parametrize("name", NAMES)
def test_states_both_ways(name: str) -> None:
    """Bit-exact: strict, by file with weights_only, by assignment, and with swapped tensors."""
    ours, theirs = pair(name)
    torch.manual_seed(4)
    for net in (ours, theirs):
        for p in net.parameters():
            nn.init.normal_(p)
        source, target = (ours, theirs) if net is ours else (theirs, ours)
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        for assign in (False, True):
            target.load_state_dict(state, assign=assign)
            assert unequal(copy.deepcopy(ours)(rows()), copy.deepcopy(theirs)(rows())) == "" or (
                name == "dropout"
            )
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        target.load_state_dict(state)
        target.float().double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    source.float().double()
    assert unequal(backpropagated(ours), backpropagated(theirs)) == ""
