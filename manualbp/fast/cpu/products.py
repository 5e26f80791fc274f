"""The three products of a linear layer, each by the routine that the mode allows.

exact   ATen's, in autograd's order: the bits of nn.Linear
fast    for each kind of product the routine that is faster on this processor (routines.py), ATen's
        or oneDNN's, which adds the bias and takes some activations in the same pass; on GPUs
        products together with their activations, by ATen or by Triton's kernels (kernels/choice.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.fast.cpu.routines import (
    MOST_GAIN,
    OVER_Z,
    ROUTINES,
    chosen,
    known,
    pin,
    policy,
    shape_of,
)
from manualbp.fast.gpu import choice, kernels
from manualbp.maths.activations import Activation, ReLU, Sigmoid, Tanh

__all__ = ["activated", "activated_input_gradient", "forward_product", "input_gradient",
           "linear", "pin", "policy", "small", "weight_gradient"]  # fmt: skip

T = TypeVar("T")
# f that can write over z, since its f' is computed from a.
NAMES: dict[type[Activation], str] = {ReLU: "relu", Tanh: "tanh", Sigmoid: "sigmoid"}


# Multiplications of a forward pass below which a step by hand takes longer than PyTorch's own,
# since its Python takes longer than what it saves; with ATen's routines.
LEAST_WORK = 2**27
# On GPUs, which compute while Python goes on. Not yet measured.
LEAST_WORK_CUDA = 2**30
# Activations that fast mode has cheaper, and how many multiplications each of their numbers counts.
COSTLY, WORTH = (nn.Tanh, nn.GELU), 128
# Layers with a narrower side than this gain nothing by other routines.
THIN = 48


def small(modules: Iterable[nn.Module | None], x: Any) -> bool:
    """Whether PyTorch's own forward and backward take less time than Python's steps by hand."""
    # A compiler would compile once more for the other side of the comparison.
    if type(x) is not Tensor or x.dim() == 0 or torch.compiler.is_compiling():
        return False
    rows, by_onednn = x.numel() // max(x.shape[-1], 1), x.is_cpu and x.dtype is torch.float32
    least = LEAST_WORK_CUDA if x.is_cuda else LEAST_WORK
    layers: list[tuple[str | None, int]] = []
    costly = outputs = 0
    for module in modules:
        if type(module) is nn.Linear:
            inputs, outputs = module.in_features, module.out_features
            gains = by_onednn and min(inputs, outputs) >= THIN
            layers.append((shape_of(inputs, outputs) if gains else None, rows * inputs * outputs))
        elif type(module) in COSTLY:
            costly += rows * WORTH * outputs
    if costly + MOST_GAIN * sum(work for _, work in layers) < least:
        return True  # whatever the policy says, which need not be measured for it
    worth = (work * known()[f"gain, {shape}"] if shape else work for shape, work in layers)
    return costly + sum(worth) < least


IN_ONE_PASS = ("tanh", "sigmoid")  # oneDNN's ReLU makes 0 of NaN


def forward_product(activation: str) -> str:
    """The kind of product that f(h W^T + b) is."""
    return "forward with tanh" if activation in IN_ONE_PASS else "forward"


# Each product takes the ``routine`` that was chosen for its like before, or chooses one.


def linear(
    h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none",
    routine: str | None = None,
) -> Tensor:  # fmt: skip
    """f(h W^T + b), f the identity or one of OVER_Z."""
    if torch.is_grad_enabled():
        routine = "ATen"  # oneDNN's has no derivative
    routine = routine or chosen(forward_product(activation), h, weight)
    if routine == "ATen" or activation in IN_ONE_PASS:
        return ROUTINES[routine].linear(h, weight, bias, activation)
    z = ROUTINES[routine].linear(h, weight, bias, "none")
    return z if activation == "none" else OVER_Z[activation](z)


def input_gradient(g: Tensor, weight: Tensor, routine: str | None = None) -> Tensor:
    """g W."""
    if (routine or chosen("input gradient", g, weight)) == "ATen":
        return g.mm(weight)
    return ROUTINES["oneDNN"].linear(g, weight.t(), None, "none")


def weight_gradient(
    g: Tensor, h: Tensor, total: Tensor | None = None, routine: str | None = None
) -> Tensor:
    """g^T h; with ``total`` total + g^T h, written over it."""
    routine = routine or chosen("weight gradient", g, h)
    if total is not None and routine == "ATen":
        return total.addmm_(g.t(), h)
    found = ROUTINES[routine].weight_gradient(g, h)
    return found if total is None else total.add_(found)


# A product and the activation next to it, for GPUs: in one step where that is faster.


def activated(
    h: Tensor, weight: Tensor, bias: Tensor | None, f: Activation, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """a = f(z), and z = h W^T + b where f' will read it: ``keep``."""

    def by_aten() -> tuple[Tensor, Tensor | None]:
        z = F.linear(h, weight, bias)
        over = NAMES.get(type(f))
        return OVER_Z[over](z) if over else f.f(z), z if keep else None

    def by_triton() -> tuple[Tensor, Tensor | None]:
        a, z = kernels.load().activated_linear(h, weight, bias, *kernels.code(f), keep)
        return a, z if keep else None

    return _faster("forward", f, h, weight, by_aten, by_triton)


def activated_input_gradient(
    g: Tensor, weight: Tensor, f: Activation, cache: Tensor, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """(g W) * f', f' from ``cache``, and where ``summed`` the sum of its rows."""

    def by_aten() -> tuple[Tensor, Tensor | None]:
        below = g.mm(weight)
        below = f.backward(below, cache, below if cache.is_contiguous() else None)
        return below, below.sum(0) if summed else None

    def by_triton() -> tuple[Tensor, Tensor | None]:
        args = (g, weight, cache, *kernels.code(f), summed)
        below, sums = kernels.load().activated_input_gradient(*args)
        return below, sums if summed else None

    return _faster("input gradient", f, g, weight, by_aten, by_triton)


def _faster(
    product: str, f: Activation, x: Tensor, weight: Tensor,
    by_aten: Callable[[], T], by_triton: Callable[[], T],
) -> T:  # fmt: skip
    if not kernels.takes(x):
        return by_aten()
    (outputs, inputs), name = weight.shape, f"{product} with {type(f).__name__}"
    step = choice.Step(name, len(x), outputs, inputs, x.dtype)
    return choice.run(step, x, {choice.ATEN: by_aten, choice.TRITON: by_triton})
