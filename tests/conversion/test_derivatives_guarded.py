"""The guard of derivatives: which calls it serves, and what is around them."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

import manualbp
from manualbp.fast import native
from manualbp.fast.native import jets
from manualbp.maths.order import Order
from tests.conversion.derived import ByHand, Nested, close, everything, points, same
from tests.conversion.test_derivatives_stale import (
    LINES,
    WHERE,
    build,
    called,
    doubled,
    right,
    served,
)

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("where", WHERE)
def test_served_again_behind_a_hook(where: str) -> None:
    net, x = called()
    handle = WHERE[where](net).register_forward_hook(doubled)
    assert not served(net, x)
    handle.remove()
    assert served(net, x)


def test_what_may_change() -> None:
    """Values, gradients and what is frozen; a buffer or an attribute of a container."""
    net, x = called()
    sum(t.sum() for t in manualbp.derivatives(net, x)).backward()
    net[3].weight.data.mul_(2)
    net[0].note = "a word"
    net[3].bias.requires_grad_(False)
    assert served(net, x) and net[0][0].weight.grad is not None
    right(net, x)


def test_other_inputs() -> None:
    """Each serves alone what is like it."""
    net, x = called()
    flat = x.detach()
    mine = flat.as_subclass(type("Mine", (Tensor,), {}))
    others = [flat[:4], flat.t().contiguous().t(), flat.double(), flat.tolist(), None, mine,
              flat[:, :2], flat.to_sparse()]  # fmt: skip
    assert served(net, flat) and not any(served(net, other) for other in others)
    seconds = ["diagonal", "", "Laplacian", [(0, 0)], [(1, 0)], [(False, 1)], [(0.0, 1)],
               [[0, 2**70]], [(0, 1), (0, 1)], [], [()], [0, 1], ((0, 1), None), 3,
               torch.ones(2)]  # fmt: skip
    assert not any(served(net, flat, second, LINES) for second in seconds)
    assert all(served(net, flat, second, LINES) for second in ([(0, 1)], ((0, 1),), [[0, 1]]))
    lines = [LINES[:1], LINES.double(), LINES.clone().requires_grad_(), LINES.t().contiguous().t(),
             LINES.expand(5, 2, 3), LINES.tolist()]  # fmt: skip
    assert not any(served(net, flat, [(0, 1)], each) for each in lines)
    for second in ([(False, 1)], [(0, 2)], "Laplacian"):
        with pytest.raises(ValueError, match="second must be"):
            manualbp.derivatives(net, flat, second, LINES)


def test_pairs_that_change_in_their_list() -> None:
    net, x = called()
    pairs = [[0, 0]]
    for second in (0, 1):
        pairs[0][1] = second
        for _ in range(2):
            same(net, x, pairs, orders=1)


WRONG: dict[str, Callable[[Order], Order]] = {
    "(k, k) for (k, m)": lambda o: Order(o.second, o.lines, ((0, 0), (1, 1)), o.shape),
    "pairs mixed": lambda o: Order(o.second, o.lines, o.asked[::-1], o.shape),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_planted_pairs_in_cpp_are_caught(
    wrong: Callable[[Order], Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, x, pairs = jets._native, points(5, 3, torch.float32), [(0, 1), (1, 1)]
    same(build(), x, pairs, orders=1)
    monkeypatch.setattr(jets, "_native", lambda s, order, *rest: made(s, wrong(order), *rest))
    with pytest.raises(AssertionError):
        same(build(), x, pairs, orders=1)


def test_around_a_call() -> None:
    """Modes, transforms and hooks of all modules: each ends, and the guard serves again."""
    net, x = called()
    flat = x.detach()
    plain = manualbp.derivatives(net, flat)
    around: dict[str, Callable[[], Any]] = {
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "a mode": Watching,
        "a device": lambda: torch.device("cpu"),
        "a hook": lambda: register_module_forward_hook(lambda module, args, output: None),
    }
    for name, context in around.items():
        with context():
            assert not served(net, flat), name
            found = manualbp.derivatives(net, flat)
            expected = Nested(net)(flat.clone()) if name == "autocast" else plain
            assert found[0].requires_grad == (name not in ("no_grad", "inference"))
            close([t.detach().clone() for t in found], [t.detach() for t in expected])
        assert served(net, flat), name


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's, of itself
def test_inside_transforms_and_compilers() -> None:
    net, x = called()
    arm, flat = ByHand(net, "laplacian"), x.detach()
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jacrev there"):
        torch.func.vmap(lambda row: arm(row[None])[2][0])(flat)
    by_func = torch.func.grad(lambda y: arm(y)[2].square().sum())(flat)
    (expected,) = torch.autograd.grad(Nested(net, "laplacian")(x)[2].square().sum(), x)
    close([by_func], [expected])
    compiled = torch.compile(lambda y: arm(y)[2] * 2, backend="eager")
    close([compiled(x)], [arm(x)[2] * 2])
    values = {f"net.{name}": p.detach() * 2 for name, p in net.named_parameters()}
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        parameter.data.mul_(2)
    for _ in range(2):
        found = torch.func.functional_call(arm, values, (flat,))
        close([t.detach() for t in found], [t.detach() for t in Nested(other, "laplacian")(flat)])
    assert served(net, flat)


def test_nothing_outlives_the_model() -> None:
    """Though a container knows it, and a guard has served it."""
    net, x = called()
    net.note = [net]
    sum(t.sum() for t in manualbp.derivatives(net, x)).backward()
    alive = [weakref.ref(t) for t in (net, net[1], *net.parameters())]
    del net
    gc.collect()
    assert not any(each() is not None for each in alive)


def test_threads() -> None:
    """With other shapes, in one model; bit-exact."""
    net, wrong = build(), []
    inputs = [points(rows, 3, torch.float32) for rows in (3, 5, 17, 40)]
    right_ones = [everything(ByHand(net, "laplacian"), x, 1) for x in inputs]

    def run(number: int) -> None:
        for _ in range(20):
            found = everything(ByHand(net, "laplacian"), inputs[number], 1)
            wrong.extend(not torch.equal(*p) for p in zip(found, right_ones[number], strict=True))

    threads = [threading.Thread(target=run, args=(i % 4,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong and not any(wrong)
