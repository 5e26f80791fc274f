"""Twins, ours and PyTorch's, to which the same change is made; and what differs afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import manualbp
from manualbp.modules.plan import KEY
from tests.helpers import differing

WIDTH, ROWS = 33, 64  # of every layer, so that weights can be exchanged
CHAIN = ("fc1", "act", "leaky", "drop", "fc2", "norm")


def children() -> dict[str, nn.Module]:
    """Of a chain, by role."""
    torch.manual_seed(0)
    kinds = (linear(), nn.ELU(), nn.LeakyReLU(0.2), nn.Dropout(0.3), linear(),
             nn.BatchNorm1d(WIDTH))  # fmt: skip
    return dict(zip(CHAIN, kinds, strict=True))


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


class PlainResidual(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Written(nn.Module):
    """The chain as people write it."""

    def __init__(self) -> None:
        super().__init__()
        for name, child in children().items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.leaky(self.act(self.fc1(x))))
        return self.norm(self.fc2(x))


class WrittenGate(Written):
    """A gate, and a chain behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.fc3 = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(self.act(self.fc1(x)) * self.up(x))
        return self.norm(self.fc3(self.drop(self.leaky(x))))


class PlainGated(nn.Module):
    """What ``manualbp.GatedMLP`` stands for."""

    def __init__(self, like: manualbp.GatedMLP) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = copy.deepcopy(
            (like.gate_proj, like.up_proj, like.down_proj, like.act_fn)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def gated() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = manualbp.GatedMLP(WIDTH, WIDTH, "elu", bias=True)
    return model, PlainGated(model)


def converted(kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    twin = kind()
    return manualbp.convert(copy.deepcopy(twin)), twin


BY_NUMBER = {role: str(i) for i, role in enumerate(CHAIN)}
BY_ROLE = {role: role for role in CHAIN}


@dataclass(frozen=True)
class Owner:
    """What keeps a plan: it, its twin, and how it calls the children of each role."""

    build: Callable[[], tuple[nn.Module, nn.Module]]
    names: dict[str, str]


OWNERS = {
    "Sequential": Owner(
        lambda: (manualbp.Sequential(*children().values()), nn.Sequential(*children().values())),
        BY_NUMBER,
    ),
    "Residual": Owner(
        lambda: (manualbp.Residual(*children().values()), PlainResidual(*children().values())),
        BY_NUMBER,
    ),
    "converted": Owner(lambda: converted(Written), BY_ROLE),
    "converted gate": Owner(lambda: converted(WrittenGate), {**BY_ROLE, "up": "up"}),
    "GatedMLP": Owner(
        gated, {"fc1": "gate_proj", "act": "act_fn", "fc2": "down_proj", "up": "up_proj"}
    ),
}


class Net:
    """A module with its children by role."""

    def __init__(self, module: nn.Module, names: dict[str, str]) -> None:
        self.module, self.names = module, names

    def __getitem__(self, role: str) -> Any:
        return getattr(self.module, self.names[role])

    def __setitem__(self, role: str, child: nn.Module) -> None:
        setattr(self.module, self.names[role], child)

    def __contains__(self, role: str) -> bool:
        return role in self.names


# What is done to each of the twins. A generator yields wherever they are to be compared.
Change = Callable[[Net], Any]


def twins(owner: str) -> tuple[Net, Net]:
    """After a first training call, by hand: the plan is there."""
    names = OWNERS[owner].names
    model, twin = (Net(module, names) for module in OWNERS[owner].build())
    assert unequal(model, twin) == []
    assert is_by_hand(model.module) and KEY in vars(model.module)
    return model, twin


def differing_after(owner: str, change: Change) -> list[str]:
    """What differs between the twins at any moment of the change."""
    nets, wrong = twins(owner), []
    for _ in zip(*(moments(change, net) for net in nets), strict=True):
        wrong += unequal(*nets)
    return wrong


def moments(change: Change, net: Net) -> Iterator[None]:
    torch.manual_seed(3)
    steps = change(net)
    if isinstance(steps, Iterator):
        for _ in steps:
            yield
            torch.manual_seed(3)
    else:
        yield


def unequal(model: Net, twin: Net) -> list[str]:
    """What differs in a bit or a stride, or that only one of them raises an error."""
    wrong = []
    for wants_x in (True, False):
        ours, theirs = passed(model.module, wants_x), passed(twin.module, wants_x)
        if ours.keys() != theirs.keys():
            wrong.append("keys")
            continue
        wrong += differing(ours, theirs) or [
            n for n in ours if strides(ours[n]) != strides(theirs[n])
        ]
    return wrong


def strides(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tensor.stride()


def passed(module: nn.Module, wants_x: bool = True, rows: int = ROWS) -> dict[str, Any]:
    """Output, gradients, buffers and the next random number of a step; or the error it raises.

    Gradients are asked for in the two ways there are.
    """
    torch.manual_seed(1)
    module.zero_grad()
    x = input_for(module, rows).requires_grad_(wants_x)
    wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
    try:
        output = module(x)
        if wants_x:
            wanted["input"] = x
            grads = torch.autograd.grad(
                output, wanted.values(), output.detach().cos(), allow_unused=True
            )
            found = dict(zip(wanted, grads, strict=True))
        elif output.requires_grad:
            output.backward(output.detach().cos())
            found = {name: p.grad for name, p in wanted.items()}
        else:
            found = {}
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        return {"error": torch.tensor(list(f"{type(error)} {error}".encode()))}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    return {"output": output.detach(), **found, **buffers, "next": torch.rand(3)}


def input_for(module: nn.Module, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, WIDTH).to(next((p.dtype for p in module.parameters()), torch.float32))


def is_by_hand(module: nn.Module) -> bool:
    """Whether a call of it is, which leaves no trace in the buffers."""
    state = copy.deepcopy(module.state_dict())
    output = module(input_for(module))
    module.load_state_dict(state)
    return type(output.grad_fn).__name__ in ("ChainBackward", "GatedBackward")
