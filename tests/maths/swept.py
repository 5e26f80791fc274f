"""Layers of every kind, networks around them, and what a pass through one leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from manualbp.parity.bits import bit_identical

# A kind's layers by name; c the channels of a batch normalization.
SWEPT: dict[str, Callable[[int], dict[str, nn.Module]]] = {
    "dropout": lambda c: {
        "plain": nn.Dropout(0.5), "varied": nn.Dropout(0.1),
        "of nothing": nn.Dropout(0), "of all": nn.Dropout(1),
    },
    "layernorm": lambda c: {
        "plain": nn.LayerNorm(8), "varied": nn.LayerNorm(8, 0.3, bias=False),
        "no parameters": nn.LayerNorm(8, 0.0, False),
    },
    "rmsnorm": lambda c: {
        "plain": nn.RMSNorm(8), "varied": nn.RMSNorm(8, 0.3),
        "no parameters": nn.RMSNorm(8, elementwise_affine=False),
    },
    "batchnorm": lambda c: {
        "plain": nn.BatchNorm1d(c), "varied": nn.BatchNorm1d(c, 0.3, None),
        "no parameters": nn.BatchNorm1d(c, affine=False),
        "no statistics": nn.BatchNorm1d(c, momentum=0.9, track_running_stats=False),
    },
}  # fmt: skip


def two(kind: str) -> list[nn.Module]:
    """Layers of a kind with parameters, that do something."""
    return [SWEPT[kind](8)[name] for name in ("plain", "varied")]


def plain(kind: str) -> nn.Module:
    return SWEPT[kind](8)["plain"]


class PlainResidual(nn.Sequential):
    """What ``Residual`` stands for."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def around(layer: nn.Module) -> list[nn.Module]:
    """The layer between two products, where it gets and gives gradients, and at the end."""
    first, last = nn.Linear(5, 8), nn.Linear(8, 5)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return [first, nn.Tanh(), layer, last]


def by_hand(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "ChainBackward"


def passed(
    net: nn.Module, x: Tensor, cotangent: Tensor, create_graph: bool = False
) -> dict[str, Tensor | None]:
    """Output, gradients, buffers and what the generator would draw next."""
    x = x.detach().requires_grad_(x.requires_grad)
    torch.manual_seed(1)
    output = net(x)
    wanted = {"input": x, **dict(net.named_parameters())}
    wanted = {name: t for name, t in wanted.items() if t.requires_grad}
    found = torch.autograd.grad(
        output, list(wanted.values()), cotangent, create_graph=create_graph, allow_unused=True
    )
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    grads = {n: g if g is None else g.detach() for n, g in zip(wanted, found, strict=True)}
    return {"output": output.detach(), **grads, **buffers, "next": torch.rand(3)}


def second(net: nn.Module, x: Tensor) -> list[Tensor | None]:
    x = x.detach().requires_grad_(x.requires_grad)
    wanted = [t for t in (x, *net.parameters()) if t.requires_grad]
    torch.manual_seed(1)
    first = torch.autograd.grad(net(x).pow(2).sum(), wanted, create_graph=True)
    penalty = sum(g.pow(2).sum() for g in first)
    found = torch.autograd.grad(penalty, wanted, create_graph=True, allow_unused=True)
    third = sum(g.pow(2).sum() for g in found if g is not None)
    return [*found, *torch.autograd.grad(third, wanted, allow_unused=True)]


def unequal(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> list[str]:
    """What differs in a bit or a stride."""
    return [
        name
        for name, t in theirs.items()
        if (t is None) != ((o := ours[name]) is None)
        or not (t is None or o is None or (bit_identical(o, t) and o.stride() == t.stride()))
    ]
