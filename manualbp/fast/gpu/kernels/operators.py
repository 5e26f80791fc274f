"""The kernels as operators of PyTorch's: ``torch.ops.manualbp``.

Compilers and tracers know the shapes of their results. CUDA graphs capture them. They have no
derivatives: the second order takes ATen's products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manualbp.fast.gpu.kernels import chain, errors, functions, linear


@torch.library.custom_op("manualbp::activated_linear", mutates_args=())
def activated_linear(
    h: Tensor, weight: Tensor, bias: Tensor | None, f: str, p: float, q: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """a = f(h W^T + b) (N, O), and z where ``keep``, else empty; h (N, I), W (O, I)."""
    return linear.forward(h, weight, bias, functions.ActivationCode(f, p, q), keep)


@activated_linear.register_fake
def _(h, weight, bias, f, p, q, keep):
    a = h.new_empty(h.shape[0], weight.shape[0])
    return a, torch.empty_like(a) if keep else h.new_empty(0)


@torch.library.custom_op("manualbp::activated_input_gradient", mutates_args=())
def activated_input_gradient(
    delta: Tensor, weight: Tensor, cache: Tensor, f: str, p: float, q: float, sums: bool
) -> tuple[Tensor, Tensor]:
    """(delta W) * f' (N, I), f' from ``cache`` (N, I); where ``sums`` the sum of its rows."""
    return linear.input_gradient(delta, weight, cache, functions.ActivationCode(f, p, q), sums)


@activated_input_gradient.register_fake
def _(delta, weight, cache, f, p, q, sums):
    below = delta.new_empty(delta.shape[0], weight.shape[1])
    return below, delta.new_empty(weight.shape[1] if sums else 0)


@torch.library.custom_op("manualbp::narrow_step", mutates_args=())
def narrow_step(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None],
    f: str, p: Sequence[float], q: Sequence[float], from_z: Sequence[bool],
    loss: str, loss_p: float, ignored: int,
    need_x: bool, need_w: Sequence[bool], need_b: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``chain.step``; f holds the names of all activations, with commas between them."""
    codes = [functions.ActivationCode(*code) for code in zip(f.split(","), p, q, strict=True)]
    cost = errors.LossCode(loss, loss_p, ignored)
    return chain.step(x, y, weights, biases, codes, from_z, cost, need_x, need_w, need_b)


@narrow_step.register_fake
def _(x, y, weights, biases, f, p, q, from_z, loss, loss_p, ignored, need_x, need_w, need_b):
    sizes = sum(w.numel() for w in weights), sum(len(w) for w in weights)
    return (
        x.new_empty((), dtype=torch.float64), x.new_empty(sizes[0], dtype=torch.float32),
        x.new_empty(sizes[1], dtype=torch.float64), x.new_empty(x.shape if need_x else 0),
    )  # fmt: skip
