"""Networks with derivatives by their input; the usual nested autograd; everything of one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import manualbp
from tests.conversion.written_blocks import Plain

SECOND = (None, "laplacian", "diagonal", "hessian")
# Pairs of three lines.
PAIRS = {
    "one": [(0, 0)],
    "the last": ((2, 2),),
    "one mixed": [(0, 2)],
    "mixed, turned": [[2, 1]],
    "some of each": [(1, 1), (0, 1)],
    "not in order": [(2, 2), (1, 0), (0, 0)],
    "the same twice": [(1, 2), (2, 1), (1, 1), (1, 2)],
    "the diagonal": [(0, 0), (1, 1), (2, 2)],
    "every one": [(k, m) for k in range(3) for m in range(3)],
}


class ByHand(nn.Module):
    """derivatives as a module, so that it can be an arm of parity and a part of a model."""

    def __init__(self, net: nn.Module, second: Any = None, lines: Tensor | None = None) -> None:
        super().__init__()
        self.net, self.second = net, second
        self.register_buffer("lines", lines)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return manualbp.derivatives(self.net, x, self.second, self.lines)


class Nested(ByHand):
    """As it is usually written."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x if x.requires_grad else x.detach().requires_grad_()
        u = self.net(x)
        first = self.along(u, x)
        if self.second is None:
            return u, first
        pairs = self.along(first.flatten(1), x).unflatten(1, first.shape[1:])
        diagonal = pairs.diagonal(dim1=2, dim2=3)
        kinds = {"hessian": pairs, "diagonal": diagonal, "laplacian": diagonal.sum(2)}
        if isinstance(self.second, str):
            return u, first, kinds[self.second]
        return u, first, torch.stack([pairs[:, :, k, m] for k, m in self.second], 2)

    def along(self, values: Tensor, x: Tensor) -> Tensor:
        """(N, J) -> (N, J, K): the derivative of each column along each line."""
        lines = torch.eye(x.shape[1], dtype=x.dtype) if self.lines is None else self.lines
        found = []
        for column in values.unbind(1):
            slopes = torch.zeros_like(x)
            if column.requires_grad:
                (slopes,) = torch.autograd.grad(
                    column.sum(), x, create_graph=True, materialize_grads=True
                )
            found.append((slopes[:, None] * lines).sum(2))
        return torch.stack(found, 1)


def everything(arm: nn.Module, x: Tensor, orders: int = 2) -> list[Tensor]:
    """What it returns, with gradients by x and parameters up to that order."""
    wanted = [t for t in (x, *arm.parameters()) if t.requires_grad]
    found = list(arm(x))
    cost = sum((t * _like(t)).sum() for t in found)
    for order in range(orders):
        if not wanted or not (isinstance(cost, Tensor) and cost.requires_grad):
            break
        grads = torch.autograd.grad(
            cost, wanted, create_graph=order + 1 < orders, allow_unused=True, materialize_grads=True
        )
        found += grads
        cost = sum((g * g).sum() for g in grads)
    return found


def _like(t: Tensor) -> Tensor:
    """A cotangent that is another for each element, the same in every call."""
    return torch.linspace(-1, 2, t.numel(), dtype=t.dtype).cos().view_as(t)


def same(
    net: nn.Module, x: Tensor, second: Any = None, lines: Tensor | None = None, orders: int = 2,
    double: float = 1e-10,
) -> None:  # fmt: skip
    """Both arms have the same numbers: in float64 ``double`` of each and of 1, in float32 1e-4."""
    ours, theirs = (everything(arm(net, second, lines), x, orders) for arm in (ByHand, Nested))
    close(ours, theirs, double)


def close(ours: list[Tensor], theirs: list[Tensor], double: float = 1e-10) -> None:
    assert len(ours) == len(theirs)
    for found, expected in zip(ours, theirs, strict=True):
        tolerance = {torch.float64: double, torch.float32: 1e-4}.get(found.dtype, 0.0)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def by_hand(net: nn.Module, x: Tensor, second: Any = "laplacian") -> bool:
    """Whether one node holds the derivatives; nested autograd has a stack of many."""
    nodes = manualbp.derivatives(net, x, second)
    return len({t.grad_fn for t in nodes}) == 1


def points(rows: int, inputs: int, dtype: torch.dtype = torch.float64, trained: bool = True) -> Any:
    generator = torch.Generator().manual_seed(rows + 7 * inputs)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(trained)


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    children: list[nn.Module] = []
    for below, width in itertools.pairwise(widths):
        children += [nn.Linear(below, width, dtype=torch.float64), act()]
    return nn.Sequential(*children[:-1])


class Narrow(Plain):
    """fc2(act(fc1(x))), 6 numbers in and out."""


def _of_tied() -> nn.Module:
    tied = nn.Linear(3, 3)
    return nn.Sequential(tied, nn.Tanh(), tied, nn.Sigmoid(), tied)


NETS: dict[str, Callable[[], nn.Module]] = {
    "sequential": lambda: mlp(3, 5, 4, 2),
    "ours": lambda: manualbp.Sequential(*mlp(3, 5, 4, 2)),
    "MLP": lambda: manualbp.MLP((3, 5, 4, 1), activation="gelu", output_activation="sigmoid"),
    "linear": lambda: nn.Linear(3, 2),
    "two linear": lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2)),
    "no bias": lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.SiLU(), nn.Linear(4, 2)),
    "activation first": lambda: nn.Sequential(nn.Softplus(), nn.Linear(3, 4), nn.ELU()),
    "identity": lambda: nn.Sequential(nn.Identity(), nn.Linear(3, 4), nn.Identity(), nn.Tanh()),
    "dropout": lambda: nn.Sequential(nn.Dropout(), nn.Linear(3, 4), nn.Tanh()).eval(),
    "inplace": lambda: nn.Sequential(nn.Linear(3, 4), nn.SiLU(inplace=True), nn.Linear(4, 2)),
    "nested": lambda: nn.Sequential(mlp(3, 4, 4), nn.Sequential(nn.Tanh(), mlp(4, 4, 2))),
    "residual first": lambda: nn.Sequential(manualbp.Residual(*mlp(3, 5, 3)), *mlp(3, 2)),
    "two residual": lambda: nn.Sequential(
        *mlp(3, 4), nn.Tanh(), manualbp.Residual(*mlp(4, 5, 4)), manualbp.Residual(*mlp(4, 4)),
    ),
    "residual activation": lambda: nn.Sequential(*mlp(3, 4), manualbp.Residual(nn.Tanh())),
    "residual alone": lambda: manualbp.Residual(*mlp(3, 4, 3)),
    "empty residual": lambda: nn.Sequential(manualbp.Residual(), *mlp(3, 4, 2)),
    "tied": _of_tied,
    "many outputs": lambda: mlp(3, 4, 5),
    "block": lambda: nn.Sequential(*mlp(3, 6), Narrow(), nn.Tanh(), *mlp(6, 2)),
    "converted": lambda: manualbp.convert(nn.Sequential(*mlp(3, 6), Narrow(nn.GELU()), *mlp(6, 2))),
}  # fmt: skip
# What has no derivatives by hand.
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "batchnorm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).eval(),
    "layernorm": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh()),
    "softmax": lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)),
    "mish": lambda: nn.Sequential(nn.Linear(3, 4), nn.Mish(), nn.Linear(4, 2)),
    "forward of its own": lambda: Sine(3, 2),
    "residual inside another": lambda: manualbp.Residual(manualbp.Residual(*mlp(3, 3)), nn.Tanh()),
}  # fmt: skip


class Sine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sin()
