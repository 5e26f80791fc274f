"""Pairs of networks over equal parameters: by hand, and as PyTorch differentiates them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manualbp

BY_HAND = ("ChainBackward", "GatedBackward")


class Skip(nn.Sequential):
    """What Residual computes."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Unknown(nn.Module):
    """An activation that is none of PyTorch's, so no layer of ours."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.tanh(F.softplus(z))


class Gate(nn.Module):
    """What GatedMLP computes, over the same children."""

    def __init__(self, model: manualbp.GatedMLP) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = model.gate_proj, model.up_proj
        self.down_proj, self.act_fn = model.down_proj, model.act_fn

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A hand-made residual block, for ``convert``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1 = nn.LayerNorm(6), nn.Linear(6, 9)
        self.act, self.fc2 = nn.GELU(), nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.fc1(self.norm(x)))
        return x + self.fc2(h)


CHILDREN: dict[str, Callable[[], list[nn.Module]]] = {
    "deep": lambda: [nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.SiLU(), nn.Linear(7, 6)],
    "relu": lambda: [nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 6), nn.Sigmoid()],
    "elu": lambda: [nn.Linear(6, 9), nn.ELU(inplace=True), nn.Linear(9, 6)],
    "layernorm": lambda: [nn.LayerNorm(6), nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6)],
    "rmsnorm": lambda: [nn.Linear(6, 9), nn.RMSNorm(9), nn.Softplus(), nn.Linear(9, 6)],
    "batchnorm": lambda: [nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 6)],
    "dropout": lambda: [nn.Linear(6, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 6)],
    "unknown": lambda: [nn.Linear(6, 9), Unknown(), nn.Linear(9, 6), nn.Softmax(-1)],
}
NAMES = [*CHILDREN, "residual", "gated", "block"]


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """Ours and PyTorch's; (N, 6) to (N, 6)."""
    torch.manual_seed(0)
    ours: nn.Module
    theirs: nn.Module
    if name == "gated":
        ours = manualbp.GatedMLP(6, 10)
        theirs = Gate(copy.deepcopy(ours))
    elif name == "block":
        theirs = Block()
        ours = manualbp.convert(copy.deepcopy(theirs))
    elif name == "residual":
        theirs = Skip(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6))
        ours = manualbp.Residual(*copy.deepcopy(list(theirs)))
    else:
        theirs = nn.Sequential(*CHILDREN[name]())
        ours = manualbp.Sequential(*copy.deepcopy(list(theirs)))
    return ours.to(dtype), theirs.to(dtype)


def pairs(dtype: torch.dtype = torch.float64) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    for name in NAMES:
        yield name, *pair(name, dtype)


def rows(n: int = 5, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    """The same n inputs every time."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x.requires_grad_(grad)


def is_by_hand(output: Tensor) -> bool:
    """Whether a Function of ours is the node above; a chain may end in a module it calls."""
    return type(output.grad_fn).__name__ in BY_HAND


def tensors(found: object) -> list[Tensor | None]:
    """The leaves of what a transform or a pass returned."""
    leaves = torch.utils._pytree.tree_flatten(found)[0]
    return [leaf for leaf in leaves if leaf is None or isinstance(leaf, Tensor)]


def unequal(ours: object, theirs: object, rtol: float = 0.0) -> str:
    """What differs: by a bit; with ``rtol`` by more than that part of 1 or the largest element."""
    a, b = tensors(ours), tensors(theirs)
    if len(a) != len(b):
        return f"{len(a)} tensors, {len(b)} expected"
    for i, (p, q) in enumerate(zip(a, b, strict=True)):
        if p is None or q is None:
            if p is not q:
                return f"{i}: {p} instead of {q}"
        elif p.shape != q.shape or p.dtype is not q.dtype:
            return f"{i}: {p.shape} {p.dtype} instead of {q.shape} {q.dtype}"
        elif not (torch.equal(p, q) or (p - q).abs().max() <= rtol * q.abs().max().clamp(min=1)):
            return f"{i}: off by {(p - q).abs().max():.1e} of {q.abs().max():.1e}"
    return ""


def backpropagated(net: nn.Module, x: Tensor | None = None, seed: int = 1) -> list[Tensor | None]:
    """Output, input gradient and every parameter's after one pass."""
    x = rows(grad=True) if x is None else x.detach().requires_grad_(x.requires_grad)
    torch.manual_seed(seed)
    output = net(x)
    output.backward(output.detach().cos())
    return [output.detach(), x.grad, *[p.grad for p in net.parameters()]]
