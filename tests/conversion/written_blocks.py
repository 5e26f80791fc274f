"""Blocks as people write them: those that convert takes, and those it leaves alone, with why."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Doubling:
    """A module-level name that is not torch's; as a dataclass would be, without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def relu(x: Tensor) -> Tensor:
        return x.relu() * 2


other = Doubling()
CALLS: list[int] = []


class SiLUActivation(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.silu(input)


class GELUActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.functional.gelu

    def forward(self, input: Tensor) -> Tensor:
        return self.f(input)


class NewGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


class Loud(SiLUActivation):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 3


class Block(nn.Module):
    """What the blocks below have in common; forward is theirs."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.gate, self.act, self.drop = nn.Linear(6, 9), act or nn.Tanh(), nn.Dropout(0.3)
        self.tied, self.items = nn.Linear(6, 6), nn.ModuleList([nn.Linear(6, 6)])
        self.f, self.partial = F.relu, functools.partial(F.gelu, approximate="tanh")
        self.positional, self.scale = functools.partial(torch.mul, 3), 0.5


class Plain(Block):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.fc2(self.act(self.fc1(x)))


class Inherits(Plain):
    pass


class Timm(Block):
    def forward(self, x: Tensor) -> Tensor:
        """As timm's Mlp."""
        x = self.fc1(x)
        x = self.act(x)
        x = self.drop(x)
        x = self.norm(self.fc2(x))
        x = self.drop(x)
        return x


class Functions(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc1(F.relu(self.tied(x))))
        return F.softplus(self.fc2(x).sigmoid())


class Attributes(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.partial(self.fc2(self.f(self.fc1(x))))


class PreNorm(Block):
    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return residual + self.drop(x)


class Tied(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.act(self.tied(self.act(self.tied(x)))))


class Gated(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.gate(x)) * self.fc1(x))


class GatedOtherWay(Block):
    def forward(self, x: Tensor) -> Tensor:
        up = self.fc1(x)
        gate = F.silu(self.gate(x))
        return self.drop(self.fc2(up * gate))


class Named(Block):
    """A local name that hides the module F."""

    def forward(self, F: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(F)))


TAKEN = [Plain, Inherits, Timm, Functions, Attributes, PreNorm, Tied, Gated, GatedOtherWay, Named]


class Branch(Block):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = self.tied(x)
        return self.fc2(self.fc1(x))


class Reshape(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x.view(-1, 6)))


class SideEffect(Block):
    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(1)
        return self.fc2(self.fc1(x))


class Asserts(Block):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 6
        return self.fc2(self.fc1(x))


class InPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(x)
        x += self.fc2(self.fc1(x))
        return x


class Walrus(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2((h := self.fc1(x)).relu() + h)


class Pair(Block):
    def forward(self, x: Tensor) -> Tensor:
        a, b = self.fc1(x), x
        return self.fc2(a) + b


class Loops(Block):
    def forward(self, x: Tensor) -> Tensor:
        for item in self.items:
            x = item(x)
        return self.fc2(self.fc1(x))


class Indexes(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.items[0](x)))


class Keyword(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(input=x))


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.fc2(self.fc1(x))


class OtherName(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(other(self.fc1(x)))


class OtherAttribute(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(other.relu(self.fc1(x)))


class ReadTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(h))


class NeverRead(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(x)  # noqa: F841
        return self.fc2(self.fc1(x))


class Overwritten(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(x)
        h = self.fc1(x)
        return self.fc2(h)


class Options(Block):
    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.fc2(self.fc1(x)) * scale


class Super(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class Method(Block):
    def bend(self, x: Tensor) -> Tensor:
        return x.sin()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.bend(self.fc1(x)))


class Property(Block):
    @property
    def either(self) -> nn.Module:
        return self.tied if torch.rand(()) < 0.5 else self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.either(x)))


class Positional(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.positional(self.fc1(x)))


class Wrapped(Plain):
    pass


Wrapped.forward = functools.lru_cache(Plain.forward)  # type: ignore[method-assign]


class ByLambda(Block):
    forward = lambda self, x: self.fc2(self.fc1(x))  # noqa: E731


NO_STEP = "which is no step by itself"
NO_FUNCTION = "calls something that is no module and no known function"
REFUSED = {
    Branch: "`if self.training:", Reshape: f"`x.view(-1, 6)`, {NO_STEP}", SideEffect: NO_STEP,
    Asserts: NO_STEP, InPlace: NO_STEP, Walrus: "`(h := self.fc1(x))`", Pair: NO_STEP,
    Loops: NO_STEP, Indexes: "`self.items[0]`", Keyword: "`self.fc1(input=x)`",
    Scaled: "where `self.scale` is no result of a step", OtherName: "`other`",
    OtherAttribute: "`other.relu`",
    ReadTwice: "reads `h` more than once", NeverRead: "`h` that it gives up unread",
    Overwritten: "`h` that it gives up unread", Options: "something besides one input",
    Super: "names of an enclosing function", Decorated: "a decorator or is no plain function",
    Method: NO_FUNCTION, Property: NO_FUNCTION, Positional: NO_FUNCTION,
    Wrapped: "a decorator or is no plain function", ByLambda: "no plain function",
}  # fmt: skip
