"""convert and explain on models as people write them: the same numbers, by hand or not."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.conversion import blocks
from tests.conversion.written_blocks import (
    CALLS,
    REFUSED,
    TAKEN,
    Block,
    Branch,
    Gated,
    GELUActivation,
    Loud,
    NewGELU,
    Plain,
    PreNorm,
    SiLUActivation,
    Timm,
    Wrapped,
)
from tests.maths.test_layers import passed, unequal


def same_numbers(twin: nn.Module, model: nn.Module, x: Tensor | None = None) -> None:
    """Bit-exact: output, gradients, buffers, generator; training and not; x read elsewhere too."""
    x = torch.randn(7, 6) if x is None else x
    for train in (True, False):
        for wants_x in (True, False):
            results = []
            for net in (model.train(train), twin.train(train)):
                CALLS.clear()
                found = attempted(net, x.requires_grad_(wants_x))
                results.append(found | {"calls": torch.tensor(len(CALLS))})
            assert unequal(*results) == []


def attempted(net: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    try:
        return passed(nn.Sequential(Fork(net)), x, torch.ones(()).expand(x.shape))
    except RuntimeError as error:
        return {"error": torch.tensor(list(str(error).encode()))}


class Fork(nn.Module):
    """Reads x beside the model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        h = x * 1
        return self.inner(h) * h.sin()


def twins(kind: type[nn.Module], *args: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    twin = kind(*args)
    return twin, manualbp.convert(copy.deepcopy(twin))


def by_hand(model: nn.Module) -> bool:
    name = type(model(torch.randn(7, 6)).grad_fn).__name__
    return name in ("ChainBackward", "GatedBackward")


@pytest.mark.parametrize("kind", TAKEN)
def test_taken(kind: type[Block]) -> None:
    twin, model = twins(kind)
    same_numbers(twin, model)
    assert by_hand(model) and isinstance(model, kind) and type(model).__name__ == kind.__name__
    assert repr(model) == repr(twin) and list(model.state_dict()) == list(twin.state_dict())
    assert manualbp.explain(twin)[0].detail == "manualbp.convert(model) would take it"
    (entry,) = (e for e in manualbp.explain(model) if e.name == "")
    assert entry.by_hand and ("steps" in entry.detail or "one Function" in entry.detail)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: type[Block]) -> None:
    """With the reason, and without a change."""
    twin, model = twins(kind)
    assert type(model) is kind and REFUSED[kind] in manualbp.explain(model)[0].detail
    if kind is not Wrapped:  # it would remember its output
        same_numbers(twin, model)


def test_planted_readings_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes one step for another: numbers differ."""
    twin = Timm()
    wrong = blocks.read(Timm.forward)._replace(steps=("fc1", "drop", "fc2"))
    monkeypatch.setattr(blocks, "read", lambda forward: wrong)
    monkeypatch.setattr(blocks, "_MADE", {})
    model = manualbp.convert(copy.deepcopy(twin))
    with pytest.raises(AssertionError):
        same_numbers(twin, model)


@pytest.mark.parametrize("act", [SiLUActivation, GELUActivation, NewGELU, Loud])
@pytest.mark.parametrize("kind", [Plain, Gated])
def test_own_activations(kind: type[Block], act: type[nn.Module]) -> None:
    """Those that call a known function are run by hand, others are called."""
    twin, model = twins(kind, act())
    same_numbers(twin, model)
    if kind is Gated:
        assert by_hand(model) == (act in (SiLUActivation, GELUActivation))
    if act is NewGELU:
        assert "NewGELU: no layer by hand for it" in manualbp.explain(model)[0].detail


class Head(nn.Sequential):
    """As torchvision's MLP: a subclass with nn.Sequential's forward."""


class Doubled(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def test_sequential_and_its_subclasses() -> None:
    for kind, taken in ((nn.Sequential, True), (Head, True), (Doubled, False)):
        twin, model = twins(kind, nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 6))
        same_numbers(twin, model)
        assert by_hand(model) == taken and isinstance(model, kind) and repr(model) == repr(twin)
        if kind is Head:
            assert repr(model[1:]) == repr(twin[1:])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 6)))
        self.alias, self.block, self.branch = self.head, Plain(), Branch()

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(self.block(self.alias(x)))


def test_a_whole_model() -> None:
    torch.manual_seed(0)
    net = Net()
    twin, parameters, keys = copy.deepcopy(net), list(net.parameters()), list(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = str(manualbp.explain(net))
    assert manualbp.convert(net) is net and manualbp.convert(net) is net
    assert type(net.features) is nn.Sequential and type(net.head) is manualbp.Sequential
    assert net.alias is net.head and type(net.head[2]) is manualbp.Sequential
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == keys
    same_numbers(twin, net)
    net(torch.randn(7, 6)).sum().backward()
    weight = net.block.fc1.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(net.block.fc1.weight, weight)
    assert "would take it" in before and "by hand" not in before
    lines = str(manualbp.explain(net)).splitlines()
    assert lines[0].split() == ["module", "class", "backward", "why"]
    rows = {line.split()[0]: line for line in lines[1 : lines.index("")]}
    assert "by hand" in rows["block"] and "3 of 3 steps" in rows["block"]
    assert "autograd" in rows["branch"] and "if self.training" in rows["branch"]
    assert "autograd" in rows["block.items"] and "no forward of its own" in rows["block.items"]
    root = nn.Sequential(nn.Linear(2, 2))
    assert type(manualbp.convert(root)) is manualbp.Sequential
    for function in (manualbp.convert, manualbp.explain):
        with pytest.raises(TypeError, match=r"expected an nn.Module, got list"):
            function([root])


@pytest.mark.parametrize("kind", [Plain, PreNorm, Gated])
def test_copies_and_files(kind: type[Block]) -> None:
    """deepcopy, pickle, torch.save of module and state_dict: by hand again, bit-exact."""
    twin, model = twins(kind)
    file, state = io.BytesIO(), io.BytesIO()
    torch.save(model, file)
    torch.save(model.state_dict(), state)
    file.seek(0)
    state.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model),
              torch.load(file, weights_only=False)]  # fmt: skip
    for copied in copies:
        assert by_hand(copied) and type(copied) is type(model)
        same_numbers(twin, copied)
    twin.load_state_dict(torch.load(state, weights_only=True))


class Handle(Plain):
    """Keeps what cannot be pickled, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = lambda: 1

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "handle"}


class Registered(Plain):
    names: list[str] = []  # noqa: RUF012

    def __init_subclass__(cls, key: str) -> None:
        cls.names.append(key)


class One(Registered, key="one"):
    pass


def test_classes_with_ways_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = manualbp.convert(Handle())
    assert by_hand(pickle.loads(pickle.dumps(model)))
    assert by_hand(manualbp.convert(One())) and Registered.names == ["one"]
    stored = pickle.dumps(model)
    monkeypatch.setattr(Plain, "forward", lambda self, x: self.tied(x))
    monkeypatch.setattr(blocks, "_MADE", {})  # as in the next process
    assert type(pickle.loads(stored)) is Handle


class Bent(nn.Module):
    """An activation that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + x.abs())


@pytest.mark.parametrize("kind", [Plain, Gated])
def test_children_replaced_afterwards(kind: type[Block]) -> None:
    twin, model = twins(kind)
    for act in (nn.ReLU(), Bent(), nn.Sequential(nn.Tanh())):
        for net in (twin, model):
            net.act = act
            net.fc2 = copy.deepcopy(net.fc2)
        same_numbers(twin, model)
    twin, model = twins(Head, nn.Linear(6, 6))
    for net in (twin, model):
        net.append(nn.ReLU())
        net.append(nn.Linear(6, 6, bias=False))
        net[0] = nn.Identity()
    model[2].weight.data.copy_(twin[2].weight)
    same_numbers(twin, model)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("where", ["", "fc1", "act", "fc2"])
@pytest.mark.parametrize("kind", [Plain, Gated])
def test_hooks(kind: type[Block], where: str) -> None:
    """On the block and on its children; bit-exact, and explained."""
    twin, model = twins(kind)
    for net in (twin, model):
        child = net.get_submodule(where)
        child.register_forward_hook(lambda module, args, output: output * 2)
        child.register_full_backward_pre_hook(lambda module, grads: (grads[0] * 3,))
    same_numbers(twin, model)
    if where:
        assert "has forward hooks" in manualbp.explain(model)[0].detail


@pytest.mark.parametrize("kind", [Plain, PreNorm, Gated])
def test_compilers_and_tracers(kind: type[Block]) -> None:
    """They see the class's own forward; bit-exact, and the model is by hand afterwards."""
    twin, model = twins(kind)
    twin, model, x = twin.eval(), model.eval(), torch.randn(7, 6)
    for net in (twin, model):
        del net.f, net.partial, net.positional  # TorchScript takes no functions as attributes
    assert torch.equal(torch.jit.script(model)(x), twin(x))
    assert torch.equal(torch.fx.symbolic_trace(model)(x), twin(x))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), twin(x))
    compiled(x).sum().backward()
    twin(x).sum().backward()
    assert torch.equal(model.fc1.weight.grad, twin.fc1.weight.grad)
    assert by_hand(model)


@pytest.mark.parametrize("kind", [Plain, Gated])
def test_keyword_and_bad_input(kind: type[Block]) -> None:
    twin, model = twins(kind)
    x = torch.randn(7, 6)
    assert torch.equal(model(x=x), twin(x=x))
    for args in ((torch.randn(4, 5),), (x.double(),), ([1.0],), (x, x), ()):
        seen = []
        for net in (model, twin):
            with pytest.raises(Exception) as raised:
                net(*args)
            seen.append((raised.type, str(raised.value)))
        assert seen[0] == seen[1]
