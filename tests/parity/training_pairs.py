"""Modules, data and planted faults for the tests of compare_training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Data = list[tuple[Tensor, Tensor]]


def net(activation: type[nn.Module] = nn.Tanh, normalized: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.LayerNorm(8)] if normalized else []
    return nn.Sequential(nn.Linear(4, 8), *middle, activation(), nn.Linear(8, 8), activation(),
                         nn.Linear(8, 2))  # fmt: skip


def batches(count: int = 5, rows: int = 8, last: int | None = None) -> Data:
    generator = torch.Generator().manual_seed(1)
    sizes = [rows] * (count - 1) + [last or rows]
    return [
        (torch.randn(n, 4, generator=generator), torch.randn(n, 2, generator=generator))
        for n in sizes
    ]


class Reversed(nn.Linear):
    """The same products, summed the other way round: other bits, equally right."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1) @ self.weight.flip(-1).t() + self.bias


class Chunked(nn.Linear):
    """Half of the rows after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Chunked, self).forward(part) for part in x.chunk(2)])


class Wide(nn.Linear):
    """Products in float64, rounded once, as a fused kernel may."""

    def forward(self, x: Tensor) -> Tensor:
        found = nn.functional.linear(x.double(), self.weight.double(), self.bias.double())
        return found.to(x.dtype)


def other(reference: nn.Module, kind: type[nn.Linear] = Reversed) -> Any:
    """A correct other implementation of a reference."""
    found = copy.deepcopy(reference)
    for child in found.modules():
        if type(child) is nn.Linear:
            child.__class__ = kind
    return found


def faulty(reference: nn.Module, fault: Callable[[str, Tensor], Tensor]) -> Any:
    """Another implementation whose gradients are changed on their way into .grad."""
    found = other(reference)
    for name, parameter in found.named_parameters():
        parameter.register_hook(lambda g, name=name: fault(name, g))
    return found


def only(name: str, factor: float) -> Callable[[str, Tensor], Tensor]:
    return lambda n, g: g * factor if n == name else g
