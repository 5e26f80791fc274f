"""What programs meet: numbers that are none, empty batches, noise, state; as arms and inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.themselves import Subject, normal, of_x, seeded

INF, NAN = float("inf"), float("nan")


class OwnGenerator(nn.Module):
    """Noise that no global seed fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.draw = nn.Linear(5, 5), torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.rand(x.shape, generator=self.draw) < 0.5
        return self.inner(x * mask.to(x.dtype))

    def __deepcopy__(self, memo: Any) -> OwnGenerator:
        found = OwnGenerator()
        found.load_state_dict(self.state_dict())
        found.draw.set_state(self.draw.get_state())
        return found.to(self.inner.weight.dtype)


class RMSNormInFloat32(nn.Module):
    """As in Hugging Face's Llama: float32 inside, whatever comes in, float64 too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Counts(nn.Module):
    """Every call gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class KeepsOutput(nn.Module):
    """As a cache does: the output of the call before is added."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        both = found if self.before is None else found + self.before.to(found.dtype)
        self.before = found.detach()
        return both


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def in_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(x, torch.eye(5, dtype=x.dtype))


def with_one(value: float) -> Callable[[], tuple[Tensor, ...]]:
    def made() -> tuple[Tensor, ...]:
        x = normal(6, 5)
        x[2, 3] = value
        return (x,)

    return made


def ignored(z: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(z, labels)


def masked(z: Tensor) -> Tensor:
    return z.masked_fill(torch.ones_like(z, dtype=torch.bool), -INF).softmax(-1)


def zeros() -> tuple[Tensor, ...]:
    return (torch.zeros(6, 5),)


def function(f: Callable[..., Any], inputs: Callable[[], tuple[Tensor, ...]]) -> Subject:
    return Subject(lambda: f, inputs)


def plain() -> tuple[Tensor, ...]:
    return (normal(6, 5),)


MET: dict[str, Subject] = {
    "NaN comes in": function(torch.tanh, with_one(NAN)),
    "infinity comes in": function(torch.tanh, with_one(INF)),
    "infinity through a layer": Subject(seeded(lambda: nn.Linear(5, 3)), with_one(INF)),
    "NaN through a norm": Subject(seeded(lambda: nn.LayerNorm(5)), with_one(NAN)),
    "log of 0 and less": function(torch.log, with_one(0.0)),
    "all labels ignored": function(
        ignored, lambda: (normal(6, 5), torch.full((6,), -100))),
    "some labels ignored": function(
        ignored, lambda: (normal(6, 5), torch.tensor([0, -100, 1, 2, -100, 4]))),
    "norm at 0": function(torch.norm, zeros),
    "norm of rows at 0": function(lambda x: x.norm(dim=-1), zeros),
    "sqrt at 0": function(torch.sqrt, zeros),
    "0 / 0": function(lambda x: x / x.sum(-1, keepdim=True), zeros),
    "normalize at 0": function(F.normalize, zeros),
    "softmax of nothing": function(masked, plain),
    "overflow": function(lambda x: (300 * x) ** 5 * 1e20, plain),
    "exp overflows": function(lambda x: (100 * x).exp(), plain),
    "underflow": function(lambda x: (x * 1e-30) * 1e-30, plain),
    "ties of max": function(lambda x: x.amax(-1), zeros),
    "relu at 0": function(torch.relu, zeros),
    "empty batch": of_x(lambda: nn.Linear(5, 3), 0, 5),
    "empty mean": function(lambda x: x.mean(), lambda: (torch.zeros(0, 5),)),
    "one number": function(torch.sin, lambda: (torch.tensor(0.3),)),
    "one row in batch norm": Subject(
        seeded(lambda: nn.BatchNorm1d(5)), lambda: (normal(2, 5)[:1].expand(4, 5).clone(),)),
    "nothing depends on x": function(lambda x: x.detach() + 0 * x, plain),
    "no gradient at all": function(lambda x: x.detach(), plain),
    "integers come out": function(lambda x: (x * 2, x.argmax(-1)), plain),
    "its own generator": of_x(OwnGenerator),
    "another result at every call": of_x(Counts),
    "float32 inside": of_x(RMSNormInFloat32),
    "dropout": of_x(lambda: nn.Dropout(0.5)),
    "the call before is kept": of_x(KeepsOutput),
    "one weight in two layers": of_x(Tied),
    "frozen parameters": of_x(lambda: nn.Linear(5, 5).requires_grad_(False)),
    "autocast": function(in_autocast, plain),
    "LSTM": of_x(lambda: nn.LSTM(5, 4), 3, 2, 5),
    "sort": function(lambda x: x.sort(-1), plain),
    "one tensor twice": function(lambda x: (x, x), plain),
    "an expanded output": function(lambda x: x[:1].expand(4, 5), plain),
    "in place": function(lambda x: x.mul_(2).tanh_(), plain),
    "spectral norm": of_x(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))),
    "weight norm": of_x(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))),
    "an unused parameter": of_x(lambda: nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])[0]),
    "cancellation": function(lambda x: (x + 1e6).var(-1), plain),
    "a root of a difference": function(lambda x: (x.square().sum() - x.square().sum()).sqrt(),
                                       plain),
    "a decision": function(lambda x: x * 2 if float(x.detach().sum()) > 0 else x * 3, plain),
    "rounding itself": function(lambda x: (x * 8).round() / 8 + x, plain),
}  # fmt: skip
