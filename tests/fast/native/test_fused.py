"""FusedLoss in C++: what it leaves in .grad, when autograd does it, and what its guard sees."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast import native
from tests.fast.native import judged
from tests.fast.native.judged import found, network, same

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")


def setting(name: str = "classes") -> tuple[nn.Sequential, nn.Module, Tensor, Tensor]:
    loss, kind = judged.losses()[name]
    net = network((9, 33, 20, 5), "gelu")
    return net, loss, *judged.data(net, loss, kind, 130)


def close(ours: Any, theirs: Any) -> None:
    """fp32, other roundings: 1e-4 of each tensor's norm."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).norm() <= 1e-4 * b.norm() + 1e-7


def grads(net: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize("name", judged.losses())
def test_both_ways_have_the_same_bits(name: str) -> None:
    args = setting(name)
    assert same(found(judged.graph, *args), found(judged.direct, *args))
    assert same(found(judged.direct, *args), found(judged.direct, *args))


def test_gradients_accumulate() -> None:
    """Twice adds up; a .grad that is there is added to in place, as autograd does."""
    net, loss, x, y = setting()
    fused = manualbp.FusedLoss(net, loss)
    fused.backward(x, y)
    once = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    there = grads(net)
    fused.backward(x, y)
    assert all(a is b for a, b in zip(there, grads(net), strict=True))
    assert all(g is not None and torch.equal(g, 2 * a) for g, a in zip(there, once, strict=True))


HOOKS: dict[str, Callable[[Tensor, list[Any]], object]] = {
    "hook": lambda p, seen: p.register_hook(seen.append),
    "post accumulate": lambda p, seen: p.register_post_accumulate_grad_hook(seen.append),
    "accumulator": lambda p, seen: seen.append(
        p.view_as(p).grad_fn.next_functions[0][0].register_hook(lambda *g: seen.append(g))  # type: ignore[union-attr]
    ),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_called(kind: str) -> None:
    """Before the first call, and after it, when the guard already serves."""
    net, loss, x, y = setting()
    fused, seen = manualbp.FusedLoss(net, loss), []  # type: ignore[var-annotated]
    fused.backward(x, y)
    expected = [g.clone() for g in grads(net) if g is not None]
    keep = net[0].weight.view_as(net[0].weight).grad_fn  # the accumulator lives as long as this
    HOOKS[kind](net[0].weight, seen)
    before = len(seen)
    net.zero_grad()
    fused.backward(x, y)
    assert len(seen) == before + 1 and keep is not None
    close(grads(net), expected)


@pytest.mark.parametrize("backward", [True, False])
def test_errors_leave_no_gradient(backward: bool) -> None:
    net, loss, x, y = setting()
    fused = manualbp.FusedLoss(net, loss)
    run = fused.backward if backward else fused
    for served in (False, True):
        for bad in (5, -1):
            wrong = y.clone()
            wrong[70] = bad
            with pytest.raises(IndexError):
                run(x, wrong)
            assert grads(net) == [None] * len(grads(net))
        with pytest.raises((ValueError, RuntimeError)):
            run(x, y[:7])
        assert served or run(x, y).ndim == 0
        net.zero_grad()


def test_backward_again() -> None:
    net, loss, x, y = setting()
    cost = manualbp.FusedLoss(net, loss)(x, y)
    cost.backward(retain_graph=True)
    once = [g.clone() for g in grads(net) if g is not None]
    cost.backward()
    close(grads(net), [2 * g for g in once])
    with pytest.raises(RuntimeError, match="second time"):
        cost.backward()


CHANGES: dict[str, Callable[[Any], object]] = {
    "parameter": lambda f: setattr(f.model[0], "weight", nn.Parameter(torch.ones(33, 9))),
    "values": lambda f: f.model[0].weight.data.mul_(2),
    "data": lambda f: setattr(f.model[0].weight, "data", torch.ones(33, 9)),
    "reduction": lambda f: setattr(f.loss, "reduction", "sum"),
    "smoothing": lambda f: setattr(f.loss, "label_smoothing", 0.3),
    "ignored": lambda f: setattr(f.loss, "ignore_index", 2),
    "weight": lambda f: setattr(f.loss, "weight", torch.rand(5)),
    "loss": lambda f: setattr(f, "loss", nn.CrossEntropyLoss(reduction="sum")),
    "child": lambda f: f.model.__setitem__(1, nn.Tanh()),
    "option": lambda f: setattr(f.model[1], "approximate", "tanh"),
    "eps": lambda f: setattr(f.model[2], "eps", 0.5),
    "no bias": lambda f: setattr(f.model[0], "bias", None),
    "model": lambda f: setattr(f, "model", network((9, 7, 5), "tanh")),
    "tile_rows": lambda f: setattr(f, "tile_rows", 7),
    "frozen": lambda f: f.model[0].weight.requires_grad_(False),
    "training": lambda f: f.eval(),
    "hook": lambda f: f.model[0].register_forward_hook(lambda m, i, o: 2 * o),
    "hook of the loss": lambda f: f.loss.register_forward_hook(lambda m, i, o: 2 * o),
    "dropout": lambda f: f.model.insert(1, nn.Dropout(0.0)),
}


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name: str, backward: bool) -> None:
    """After two calls, so that the guard serves: as loss(model(x), y) after the change."""
    net, loss, x, y = setting()
    fused = manualbp.FusedLoss(net, loss)
    run = fused.backward if backward else lambda x, y: (cost := fused(x, y)).backward() or cost
    for _ in range(2):
        run(x, y)
    torch.manual_seed(3)
    CHANGES[name](fused)
    fused.zero_grad()
    cost, model = run(x, y).detach(), copy.deepcopy(fused.model)
    model.zero_grad()
    expected = copy.deepcopy(fused.loss)(model(x), y)
    expected.backward()
    close([cost, *grads(fused.model)], [expected.detach(), *grads(model)])


def test_surroundings_are_seen() -> None:
    """no_grad, inference mode, autocast, all frozen: the same value, or the same error."""
    net, loss, x, y = setting()
    fused = manualbp.FusedLoss(net, loss)
    value = fused.backward(x, y)
    there = [g.clone() for g in grads(net) if g is not None]
    for around in (torch.no_grad(), torch.inference_mode()):
        with around:
            assert not fused(x, y).requires_grad
            close([fused(x, y)], [value])
            with pytest.raises(RuntimeError, match="does not require grad"):
                fused.backward(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(x, y), loss(net(x), y))
    assert all(map(torch.equal, grads(net), there))  # type: ignore[arg-type]
    net.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        fused.backward(x, y)


BITS = """
import torch
from tests.fast.native.test_fused import setting, judged
torch.set_num_threads({threads})
found = judged.found(judged.direct, *setting())
print([g.double().sum().item().hex() for g in found.values() if g is not None])
"""


def test_two_processes_have_the_same_bits() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", BITS.format(threads=1)], capture_output=True, text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert said[0] == said[1] != ""


def test_two_threads() -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            loss, kind = judged.losses()["mse"]
            net = network((17, 33, 18, 5), "gelu")
            args = net, loss, *judged.data(net, loss, kind, 5000)
            assert judged.wrong(*args) == []
            assert same(found(judged.graph, *args), found(judged.direct, *args))
    finally:
        torch.set_num_threads(threads)


def resident() -> int:
    """Bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("steps", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_memory_is_lost(steps: int) -> None:
    """A step that kept its gradients, or x, would keep 1 KB and more: at most 20 MB in all."""
    net, loss, x, y = setting()
    x, y = x.repeat(10, 1), y.repeat(10)  # 47 KB, 23 MB in 500 steps
    fused = manualbp.FusedLoss(net, loss)
    for step in range(steps + 50):
        if step == 50:
            before = resident()
        fused.backward(x.clone(), y)
        fused(x.clone(), y).backward()
        net.zero_grad()
    assert resident() - before < 20e6
