"""A plan never goes stale: the same tensors have other contents and layouts; bit-exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.modules import gated, stretch
from tests.modules.changes import OWNERS, WIDTH, Change, Net, differing_after, is_by_hand, linear


def frozen(*roles: str) -> Change:
    """And trained again."""

    def change(net: Net) -> Iterator[None]:
        for trained in (False, True):
            for role in roles:
                net[role].weight.requires_grad_(trained)
            yield

    return change


def all_frozen(net: Net) -> Iterator[None]:
    for trained in (False, True):
        net.module.requires_grad_(trained)
        yield


def data(of: Callable[[Tensor], Tensor], name: str = "weight") -> Change:
    def change(net: Net) -> None:
        tensor = getattr(net["fc1"], name)
        tensor.data = of(tensor.data)

    return change


def of_dtype(*dtypes: torch.dtype) -> Change:
    def change(net: Net) -> Iterator[None]:
        for dtype in dtypes:
            net.module.to(dtype)
            yield

    return change


def widened(net: Net) -> None:
    """The width between two layers, within the tensors that are there."""
    for role in {"fc1", "up"} & net.names.keys():
        net[role].weight.data, net[role].bias.data = torch.randn(9, WIDTH), torch.randn(9)
    net["fc2"].weight.data = torch.randn(WIDTH, 9)


def contents_swapped(net: Net) -> None:
    torch.utils.swap_tensors(net["fc1"].weight, nn.Parameter(torch.randn(WIDTH, WIDTH)))


def swapped_by_to(net: Net) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net.module.to(torch.float64)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def stepped(net: Net) -> Iterator[None]:
    optimizer = torch.optim.SGD(net.module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.step()
        yield


def loaded(net: Net) -> None:
    net.module.load_state_dict({name: t + 1 for name, t in net.module.state_dict().items()})


def norm_moved(net: Net) -> None:
    if "norm" in net:
        net["norm"].running_mean.add_(1)


def hooked(net: Net) -> Iterator[None]:
    handle = net["fc1"].weight.register_hook(lambda g: 2 * g)
    yield
    handle.remove()
    yield


CASES: dict[str, Change] = {
    "frozen": frozen("fc1"),
    "all weights frozen": frozen("fc1", "fc2"),
    "all frozen": all_frozen,
    "data": data(lambda w: w * 2),
    "data of the bias": data(lambda b: b * 2, "bias"),
    "transposed data": data(lambda w: w.t().contiguous().t()),
    "transposed values": data(torch.t),
    "strided data": data(lambda w: torch.cat([w, w], 1)[:, ::2]),
    "expanded bias": data(lambda b: b[:1].expand(WIDTH), "bias"),
    "other shape": widened,
    "a shape that does not fit": data(lambda w: w[:, :-1]),
    "float64": of_dtype(torch.float64, torch.float32),
    "bfloat16": of_dtype(torch.bfloat16),
    "float64 of one weight": data(Tensor.double),
    "contents swapped": contents_swapped,
    "swapped by `to`": swapped_by_to,
    "optimizer": stepped,
    "state loaded": loaded,
    "hook of a tensor": hooked,
    "running mean": norm_moved,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("owner", OWNERS)
def test_other_contents(owner: str, name: str) -> None:
    assert differing_after(owner, CASES[name]) == []


@pytest.mark.parametrize("owner", OWNERS)
def test_by_hand_when_trained_for_the_first_time(owner: str) -> None:
    """Frozen as a whole it is not."""
    model, _ = OWNERS[owner].build()
    model.requires_grad_(False)
    assert not is_by_hand(model)
    model.requires_grad_(True)
    assert is_by_hand(model)


def test_planted_stale_layouts_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, strides and dtypes that are not looked at again: every owner sees it."""
    for module in (stretch, gated):
        monkeypatch.setattr(module, "states", lambda x, tensors: "the same")
    for owner, name in itertools.product(OWNERS, ("transposed data", "strided data")):
        assert differing_after(owner, CASES[name]) != []


def test_a_weight_that_becomes_part_of_a_graph() -> None:
    """Changed in place by what is trained; bit-exact."""
    torch.manual_seed(0)
    twin = nn.Sequential(linear(), nn.Tanh(), linear())
    model, x, found = manualbp.Sequential(*twin), torch.randn(5, WIDTH), []
    model(x).sum().backward()
    values = twin[0].weight.detach().clone()
    for net in (model, twin):
        scale = torch.ones(WIDTH, requires_grad=True)
        twin[0].weight.requires_grad_(False).copy_(values)
        twin[0].weight.mul_(scale)
        output = net(x).square().sum()
        found.append(torch.autograd.grad(output, [scale, twin[0].bias, *twin[2].parameters()]))
        twin[0].weight.detach_()
    assert all(map(torch.equal, *found))


def test_the_same_weights_with_other_inputs() -> None:
    """Bit-exact, whatever came before: shapes, layouts, and inputs that want no gradient."""
    torch.manual_seed(0)
    twin = nn.Sequential(linear(), nn.Tanh(), linear())
    model = manualbp.Sequential(*twin)
    x = torch.randn(6, WIDTH)
    inputs = [x, x.t().contiguous().t(), x[:1], x[0], x[:0], x[::2], x[:, :1].expand(6, WIDTH),
              x.view(2, 3, WIDTH), x.view(3, 2, WIDTH).transpose(0, 1)]  # fmt: skip
    for first, second in itertools.product(inputs, inputs):
        for wants_x in (True, False):
            model(first)
            y = second.detach().requires_grad_(wants_x)
            wanted = [*twin.parameters(), *([y] if wants_x else [])]
            g = torch.randn_like(twin(y))
            found = [torch.autograd.grad(net(y), wanted, g) for net in (model, twin)]
            for ours, theirs in zip(*found, strict=True):
                assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
