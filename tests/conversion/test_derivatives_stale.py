"""derivatives never go stale: a model is changed after calls that a guard served."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.conversion.kept_stages import run_guarded
from manualbp.fast import exact, native
from tests.conversion.derived import points, same

pytestmark = [
    pytest.mark.skipif(native.library() is None, reason="no library for this machine"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]
LINES = points(2, 3, torch.float32, trained=False)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


class Own(nn.Sequential):
    """Of PyTorch's forward."""


def build() -> nn.Sequential:
    torch.manual_seed(0)
    inner = Own(nn.Linear(3, 4), nn.ELU())
    return Own(inner, Block(), nn.Tanh(), nn.Linear(4, 2))


def served(net: nn.Module, x: Any, second: Any = "laplacian", lines: Any = None) -> bool:
    return run_guarded(net, x, second, lines) is not None


def called() -> tuple[Any, Tensor]:
    """A model, and an x that the guard serves in every way of this file."""
    net, x = build(), points(5, 3, torch.float32)
    for second, lines in ((None, None), ("laplacian", None), ([(0, 1)], LINES)):
        for at in (x, x.detach()):
            assert not served(net, at, second, lines)
            manualbp.derivatives(net, at, second, lines)
            assert served(net, at, second, lines)
    return net, x


def right(net: nn.Module, x: Tensor) -> None:
    for second, lines in ((None, None), ("laplacian", None), ([(0, 1)], LINES)):
        for at in (x, x.detach()):
            same(net, at, second, lines, orders=1)


def hooked(of: Callable[[Any], nn.Module], kind: str, hook: Any) -> Any:
    def change(net: Any) -> Iterator[None]:
        handle = getattr(of(net), f"register_{kind}")(hook)
        yield
        handle.remove()
        yield

    return change


def in_another_dict(net: Any) -> Iterator[None]:
    net[0]._forward_hooks = OrderedDict()
    yield
    net[0].register_forward_hook(lambda module, args, output: output * 2)
    yield


def frozen(net: Any) -> Iterator[None]:
    for trained in (False, True):
        net[0][0].weight.requires_grad_(trained)
        yield


def data(of: Callable[[Tensor], Tensor]) -> Any:
    def change(net: Any) -> None:
        net[1].fc1.weight.data = of(net[1].fc1.weight.data)

    return change


def narrower(net: Any) -> None:
    net[1].fc1.weight.data, net[1].fc1.bias.data = torch.randn(3, 4), torch.randn(3)
    net[1].fc2.weight.data = torch.randn(4, 3)


def patched(owner: Any, name: str, value: Any) -> Any:
    def change(net: Any) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as m:
            m.setattr(owner, name, value)
            yield
        yield

    return change


def doubled(module: Any, args: Any, output: Any = None) -> Any:
    return args[0] * 2 if output is None else output * 2


def doubled_forward(module: Any) -> None:
    own = module.forward
    module.forward = lambda x: own(x) * 2


class Twice(Own):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class TwiceBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


WHERE: dict[str, Callable[[Any], Any]] = {
    "the model": lambda net: net, "a container": lambda net: net[0],
    "a block": lambda net: net[1], "a layer": lambda net: net[3],
}  # fmt: skip
KINDS = {"forward_hook": doubled, "forward_pre_hook": doubled,
         "full_backward_hook": lambda m, grads, _: tuple(g * 2 for g in grads)}  # fmt: skip
call, block, forward = nn.Module.__call__, Block.forward, nn.Sequential.forward
CHANGES: dict[str, Callable[[Any], Any]] = {
    **{f"{kind} of {where}": hooked(of, kind, hook)
       for kind, hook in KINDS.items() for where, of in WHERE.items()},
    **{f"forward of {where}": lambda net, of=of: doubled_forward(of(net))
       for where, of in WHERE.items()},
    "hook in another dict": in_another_dict,
    "another layer": lambda net: net.__setitem__(2, nn.Sigmoid()),
    "another layer inside": lambda net: net[0].__setitem__(1, nn.SiLU()),
    "another layer in the block": lambda net: setattr(net[1], "fc1", nn.Linear(4, 4)),
    "one more": lambda net: net.append(nn.Tanh()),
    "one more inside": lambda net: net[0].append(nn.Tanh()),
    "one less": lambda net: net.pop(2),
    "other order": lambda net: net._modules.__setitem__("2", net._modules.pop("2")),
    "other modules": lambda net: setattr(net[0], "_modules", {"0": nn.Linear(3, 4)}),
    "an option": lambda net: setattr(net[0][1], "alpha", 0.3),
    "a parameter": lambda net: setattr(net[3], "weight", nn.Parameter(torch.ones(2, 4))),
    "no bias": lambda net: setattr(net[3], "bias", None),
    "frozen": frozen,
    "values": lambda net: net[3].weight.data.mul_(2),
    "other data": data(lambda w: w * 2),
    "transposed data": data(lambda w: w.t().contiguous().t()),
    "strided data": data(lambda w: torch.cat([w, w], 1)[:, ::2]),
    "other shapes": narrower,
    "class of the model": lambda net: setattr(net, "__class__", Twice),
    "class of a container": lambda net: setattr(net[0], "__class__", Twice),
    "class of a block": lambda net: setattr(net[1], "__class__", TwiceBlock),
    "class of a layer": lambda net: setattr(net[2], "__class__", nn.Sigmoid),
    "forward of a class": patched(nn.ELU, "forward", lambda self, x: x.sin()),
    "forward of the block's class": patched(Block, "forward", lambda s, x: 2 * block(s, x)),
    "forward of nn.Sequential": patched(
        nn.Sequential, "forward", lambda s, x: 2 * forward(s, x)),
    "call of a class": patched(Block, "__call__", lambda self, x: 2 * call(self, x)),
    "call of every module": patched(nn.Module, "__call__", lambda self, x: 2 * call(self, x)),
    "a function of the block": patched(torch, "tanh", torch.sin),
    "train and eval": lambda net: net.eval(),
}  # fmt: skip


def moments(change: Callable[[Any], Any], net: Any) -> Iterator[None]:
    steps = change(net)
    if isinstance(steps, Iterator):
        yield from steps
    else:
        yield


@pytest.mark.parametrize("name", CHANGES)
def test_changes(name: str) -> None:
    net, x = called()
    for _ in moments(CHANGES[name], net):
        right(net, x)
        right(net, x)


def test_planted_guards_that_always_hold_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own, shapes, classes of modules and what is around a call are asked elsewhere."""
    made = exact.guard
    monkeypatch.setattr(exact, "guard", lambda parts, *rest: made(parts, [], [], []))
    unseen = []
    for name, change in CHANGES.items():
        net, x = called()
        try:
            for _ in moments(change, net):
                right(net, x)
            unseen.append(name)
        except AssertionError:
            pass
    elsewhere = "of the model|one less|frozen|values|data|shapes|class of a |call of every|eval"
    assert unseen == [name for name in CHANGES if re.search(elsewhere, name)]


def test_a_converted_block_whose_class_changes() -> None:
    x = points(5, 3, torch.float32)
    net = manualbp.convert(build())
    right(net, x)
    assert served(net, x)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Block, "forward", lambda self, x: 2 * block(self, x))
        right(net, x)
    right(net, x)


def test_models_that_say_they_are_equal() -> None:
    class Equal(Own):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 1

    x = points(5, 3, torch.float32)
    for net in (Equal(*build()), Equal(*build()), Equal(*build()[:1])):
        right(net, x)


class Functions:
    act = torch.tanh


class OfAClass(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(Functions.act(self.fc1(x)))


def test_a_function_that_a_class_holds() -> None:
    """No guard looks into a class."""
    net, x = nn.Sequential(nn.Linear(3, 4), OfAClass()), points(5, 3, torch.float32)
    right(net, x)
    assert not served(net, x)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Functions, "act", torch.sigmoid)
        right(net, x)
    right(net, x)
