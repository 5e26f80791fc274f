"""A product and the activation next to it in one step, where that is faster than two.

ATen or Triton's kernels run it, as choice.py says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from manualbp.fast.gpu import choice, kernels
from manualbp.fast.gpu.choice import T
from manualbp.maths.activations import Activation, ReLU, Sigmoid, Tanh

# f that can be written over z, since its f' is computed from a.
OVER_Z: dict[type[Activation], Callable[[Tensor], Tensor]] = {
    ReLU: torch.relu_, Tanh: torch.tanh_, Sigmoid: torch.sigmoid_,
}  # fmt: skip


def activated(
    h: Tensor, weight: Tensor, bias: Tensor | None, f: Activation, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """a = f(z), and z = h W^T + b where ``keep``, since f' will read it."""

    def by_aten() -> tuple[Tensor, Tensor | None]:
        z = F.linear(h, weight, bias)
        return OVER_Z.get(type(f), f.f)(z), z if keep else None

    def by_triton() -> tuple[Tensor, Tensor | None]:
        ops = kernels.load()
        a, z = ops.activated_linear(h, weight, bias, *ops.functions.code(f), keep)
        return a, z if keep else None

    return _run("forward", f, h, weight, by_aten, by_triton)


def activated_input_gradient(
    g: Tensor, weight: Tensor, f: Activation, cache: Tensor, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """(g W) * f', with f' from ``cache``; where ``summed`` also the sum of its rows."""

    def by_aten() -> tuple[Tensor, Tensor | None]:
        below = g.mm(weight)
        below = f.backward(below, cache, below if cache.is_contiguous() else None)
        return below, below.sum(0) if summed else None

    def by_triton() -> tuple[Tensor, Tensor | None]:
        ops = kernels.load()
        args = (g, weight, cache, *ops.functions.code(f), summed)
        below, sums = ops.activated_input_gradient(*args)
        return below, sums if summed else None

    return _run("input gradient", f, g, weight, by_aten, by_triton)


def _run(
    product: str, f: Activation, x: Tensor, weight: Tensor,
    by_aten: Callable[[], T], by_triton: Callable[[], T],
) -> T:  # fmt: skip
    (outputs, inputs), name = weight.shape, f"{product} with {type(f).__name__}"
    step = choice.Product(name, len(x), outputs, inputs, x.dtype)
    return choice.run(step, x, by_aten, by_triton)
