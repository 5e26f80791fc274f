"""Plans: what is called in fast mode; copies, files and memory without a plan."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import manualbp
from manualbp.modules.plan import KEY, Plan
from tests.modules.changes import (
    OWNERS,
    WIDTH,
    Net,
    Written,
    is_by_hand,
    passed,
    twins,
    unequal,
)

ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.SiLU(inplace=True),
    nn.GELU(), nn.GELU("tanh"), nn.ELU(), nn.LeakyReLU(0.3), nn.Identity(), nn.Dropout(0.5),
    nn.LayerNorm(6),
]  # fmt: skip


def chain(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 3, bias=False))


def quickly(net: nn.Sequential) -> manualbp.Sequential:
    """The same children, in fast mode."""
    ours = manualbp.Sequential(*net)
    manualbp.set_mode("fast", ours)
    return ours


def step(forward: Callable[[Tensor], Tensor], net: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(5, 4, requires_grad=True)
    output = forward(x)
    wanted = [x, *[p for p in net.parameters() if p.requires_grad]]
    return [output, *torch.autograd.grad(output.square().sum(), wanted)]


def assert_alike(net: nn.Sequential) -> None:
    twin = copy.deepcopy(net)
    for a, b in zip(step(quickly(net), net), step(twin, twin), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("in_python")  # whose bits fast mode has there
@pytest.mark.parametrize("f", ACTIVATIONS, ids=repr)
def test_bits_of_a_whole_batch(f: nn.Module) -> None:
    net = chain(f)
    assert_alike(net)
    assert type(quickly(net)(torch.randn(5, 4)).grad_fn).__name__ == "ChainBackward"


@pytest.mark.usefixtures("in_python")  # whose bits fast mode has there
def test_a_linear_whose_weight_is_no_parameter() -> None:
    """As after `del linear.weight; linear.weight = tensor`, and with weight_norm."""
    net = chain(nn.Tanh())
    weight = net[0].weight.detach() * 2
    del net[0].weight
    net[0].weight = weight
    assert_alike(net)
    net[0].register_parameter("scale", nn.Parameter(torch.ones(())))
    twin = copy.deepcopy(net)
    x = torch.randn(5, 4)
    assert torch.equal(quickly(net)(x), twin(x))
    net = chain(nn.Tanh())
    nn.utils.parametrizations.weight_norm(net[0])
    assert_alike(net)


class Twice(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_subclasses_hooks_and_patches_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_alike(nn.Sequential(Twice(4, 6), nn.Linear(6, 3)))
    hooked = chain(nn.Tanh())
    hooked[1].register_forward_hook(lambda m, args, o: 2 * o)
    assert_alike(hooked)
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: 3 * x)
    assert_alike(chain(nn.Tanh()))


@pytest.mark.parametrize("loss", [nn.MSELoss(), manualbp.MSELoss()], ids=["torch.nn", "ours"])
@pytest.mark.parametrize("kind", [nn.Sequential, manualbp.Sequential])
def test_hooks_on_all_modules_are_called(kind: type[nn.Sequential], loss: nn.Module) -> None:
    """In fast mode too, and inside ``FusedLoss``."""
    model = kind(*chain(nn.Tanh()))
    cost, x, y, seen = manualbp.FusedLoss(model, loss), torch.randn(5, 4), torch.randn(5, 3), []
    cost(x, y)
    handle = register_module_forward_hook(lambda m, args, o: seen.append(m))
    try:
        with manualbp.set_mode("fast"):
            model(x)
        cost(x, y)
    finally:
        handle.remove()
    assert seen == [*model, model, *model, model, loss, cost]


# Copies and files.


def loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": loaded,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("owner", OWNERS)
def test_copies(owner: str, way: str) -> None:
    """By hand again, bit-exact, and each with a plan of its own, made at its first call."""
    model, twin = twins(owner)
    copied = COPIES[way](model.module)
    assert not any(KEY in vars(module) for module in copied.modules())
    nets = Net(copied, model.names), Net(COPIES[way](twin.module), twin.names)
    assert unequal(*nets) == [] and is_by_hand(copied) and KEY in vars(copied)
    for net in nets:
        net["fc1"].weight = nn.Parameter(torch.ones(WIDTH, WIDTH))
    assert unequal(*nets) == []
    if way != "copy":  # which has the same children
        assert unequal(model, twin) == []


@pytest.mark.parametrize("owner", OWNERS)
def test_files(owner: str) -> None:
    """Neither plan nor class of plans in them."""
    model, twin = twins(owner)
    state = io.BytesIO()
    torch.save(model.module.state_dict(), state)
    for stored in (pickle.dumps(model.module), state.getvalue()):
        assert KEY.encode() not in stored and b"manualbp.modules.plan" not in stored
    state.seek(0)
    twin.module.load_state_dict(torch.load(state, weights_only=True))
    assert unequal(model, twin) == []


@pytest.mark.parametrize("owner", OWNERS)
def test_files_of_a_compiled_module(owner: str) -> None:
    """What was compiled is not in them, as with every nn.Module."""
    model, _ = twins(owner)
    model.module.compile(backend="eager")
    for copied in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        assert copied._compiled_call_impl is None


def test_file_of_a_fused_loss() -> None:
    cost = manualbp.FusedLoss(chain(nn.Tanh()), nn.MSELoss(), 2)
    cost(torch.randn(5, 4), torch.randn(5, 3))
    assert KEY in vars(cost)
    assert KEY.encode() not in pickle.dumps(cost) and KEY not in vars(copy.deepcopy(cost))


class Everything(Written):
    """Writes its whole state."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


class OurEverything(manualbp.Sequential):
    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


def test_classes_that_write_their_whole_state() -> None:
    """A converted one without the plan; with ours at most an empty one, which never holds."""
    model = manualbp.convert(Everything())
    passed(model)
    assert KEY in vars(model) and KEY.encode() not in pickle.dumps(model)
    ours = OurEverything(*chain(nn.Tanh()))
    ours(torch.randn(5, 4))
    empty = vars(copy.deepcopy(ours))[KEY]
    assert type(empty) is Plan and empty.found is None and not empty.holds((), ("exact", "full"))
    copied = pickle.loads(pickle.dumps(ours))
    x = torch.randn(5, 4)
    assert torch.equal(copied(x), ours(x)) and vars(copied)[KEY].found is not None


# Memory.


@pytest.fixture
def without_gc() -> Iterator[None]:
    """What is freed here is freed at once, by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
@pytest.mark.parametrize("owner", OWNERS)
def test_a_plan_keeps_nothing_alive(owner: str) -> None:
    """Neither its module, nor after the next call what was exchanged."""
    model, twin = twins(owner)
    old = weakref.ref(model["fc1"].weight), weakref.ref(model["act"])
    for net in (model, twin):
        net["fc1"].weight = nn.Parameter(torch.ones(WIDTH, WIDTH))
        net["act"] = nn.Tanh()
    assert unequal(model, twin) == []
    assert [r() for r in old] == [None, None]
    whole, weight = weakref.ref(model.module), weakref.ref(model["fc1"].weight)
    del model, net
    assert whole() is None and weight() is None


@pytest.mark.usefixtures("without_gc")
def test_nodes_of_a_graph_go_with_it() -> None:
    """A weight of another shape has another node, also where the module is not called again."""
    model = manualbp.Sequential(nn.Linear(3, 2))
    model(torch.randn(4, 3)).sum().backward()
    weight = model[0].weight
    weight.grad, weight.data = None, torch.randn(5, 3)
    (weight * 2).sum().backward()
    assert torch.equal(weight.grad, torch.full((5, 3), 2.0))
