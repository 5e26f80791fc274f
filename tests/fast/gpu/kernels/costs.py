"""FusedLoss beside the expression that it stands for, on narrow nets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

import manualbp
from manualbp.maths import activations
from manualbp.maths.activations import Activation, to_module
from manualbp.parity import compare_gradients

TANH = activations.Tanh()


class Expression(nn.Module):
    """C(model(x), y)."""

    def __init__(self, model: nn.Sequential, loss: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model, self.loss, self.y = model, loss, y

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.model(x), self.target(x))

    def target(self, x: Tensor) -> Tensor:
        return self.y.to(x.dtype) if self.y.is_floating_point() else self.y


class OnePass(Expression):
    def forward(self, x: Tensor) -> Tensor:
        return manualbp.FusedLoss(self.model, self.loss)(x, self.target(x))


def network(widths: Sequence[int], f: Activation = TANH, bias: bool = True) -> nn.Sequential:
    """Linear layers with f between them."""
    torch.manual_seed(0)
    layers = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o, bias), to_module(f))]
    return nn.Sequential(*layers[:-1])


def batch(rows: int, inputs: int, outputs: int, loss: nn.Module) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inputs, generator=generator)
    if isinstance(loss, nn.CrossEntropyLoss):
        y = torch.randint(outputs, (rows,), generator=generator)
        return x, y.where(torch.arange(rows) % 5 != 1, loss.ignore_index)
    return x, torch.rand(rows, outputs, generator=generator)


def wrong(
    net: nn.Sequential, loss: nn.Module, rows: int, device: str, dtype: torch.dtype = torch.float32
) -> list[str]:
    """What the harness finds between one launch and autograd."""
    linears = [m for m in net if isinstance(m, nn.Linear)]
    x, y = batch(rows, linears[0].in_features, linears[-1].out_features, loss)
    arms = [kind(copy.deepcopy(net), loss, y.to(device)) for kind in (OnePass, Expression)]
    report = compare_gradients(*arms, x, seeds=(0,), power=False,
                               situations=False, dtype=dtype, device=device)  # fmt: skip
    return [f"{tensor.name}: {tensor.reason}" for tensor in report.differing]


def gradients(cost: Expression, x: Tensor) -> dict[str, Tensor | None]:
    """The loss, and of it times -3 every gradient that is wanted."""
    x = x.detach().requires_grad_(x.requires_grad)
    loss = cost(x)
    (-3 * loss).backward()
    return {"loss": loss.detach(), "input": x.grad,
            **{name: p.grad for name, p in cost.named_parameters()}}  # fmt: skip
