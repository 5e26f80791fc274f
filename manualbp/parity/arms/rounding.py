"""Rounding as another correct implementation would do it: every number off at random by an eps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from manualbp.parity.arms.layouts import copy_as_laid, laid_as, overlaps


def nudged(values: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Every number off by a random relative error of at most eps, laid out as it was."""

    def off(numbers: Tensor) -> Tensor:
        # In float32 for every dtype, so that both twins get the same noise; it is fast to draw.
        noise = torch.empty(numbers.shape).uniform_(-1, 1, generator=generator)
        noise = noise.to(numbers.device, torch.promote_types(numbers.dtype, torch.float32))
        return (numbers * noise.mul_(eps).add_(1)).to(numbers.dtype)

    # Numbers that share memory move together. Else they are drawn in the order of their indices,
    # so that both twins get the same ones, however their tensors lie in memory.
    return copy_as_laid(values, off) if overlaps(values) else laid_as(values, off(values))


class Nudge:
    """``nudged`` by a seed of its own, so that a training can go on at any step."""

    def __init__(self, eps: float, seed: int) -> None:
        self.eps, self._generator = eps, torch.Generator().manual_seed(seed)

    def __call__(self, values: Tensor) -> Tensor:
        if not values.is_floating_point():
            return values
        return nudged(values, self.eps, self._generator)

    def ulp(self, values: Tensor) -> Tensor:
        """Every number moved to a neighbour, above or below."""
        sign = torch.randint(0, 2, values.shape, generator=self._generator).double() * 2 - 1
        return (values * (1 + self.eps * sign.to(values.device))).to(values.dtype)


class Lowered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, ``dtype`` becomes the coarsest dtype that float64 numbers were rounded to."""

    dtype: torch.dtype | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(_is_double(value) for value in pytree.arg_tree_leaves(*args, **(kwargs or {}))):
            for value in pytree.tree_leaves(found):
                if isinstance(value, Tensor) and value.is_floating_point():
                    known = torch.float64 if self.dtype is None else self.dtype
                    if torch.finfo(value.dtype).eps > torch.finfo(known).eps:
                        self.dtype = value.dtype
        return found


def _is_double(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float64


# Kernels with several roundings inside. A form that is written out shows each of them, and may sum
# in another way: sum(grad_output * output) for the sum inside softmax's backward.
COMPOSITE = (
    "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data",
    "logsumexp", "native_layer_norm", "native_layer_norm_backward", "native_group_norm",
    "native_group_norm_backward", "gelu", "gelu_backward", "silu", "silu_backward",
    "softplus_backward", "elu_backward", "tanh_backward", "sigmoid_backward",
)  # fmt: skip


SUMS = (torch.ops.aten.sum.dim_IntList, torch.ops.aten.mean.dim)


@functools.cache
def written_out() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own decompositions of ``COMPOSITE`` into smaller operators, by operator."""
    from torch._decomp import decomposition_table  # loads much, so only here

    operators = (getattr(torch.ops.aten, name).default for name in COMPOSITE)
    return {op: decomposition_table[op] for op in operators if op in decomposition_table}


class Rounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every operator's floating-point result is off by at most ``eps`` at random.

    Composite kernels run written out. A sum inside of one (``hidden``) is off by eps of its terms'
    sizes: another correct form may sum other terms. Monte Carlo arithmetic, Parker 1997.
    """

    def __init__(self, eps: float, generator: torch.Generator, hidden: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps, self.generator, self.hidden = eps, generator, hidden

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        composite = written_out().get(func)
        if composite is not None:
            with Rounded(self.eps, self.generator, hidden=True):
                return composite(*args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        if self.hidden and func in SUMS:
            terms = func(args[0].abs(), *args[1:], **(kwargs or {}))
            return found + (nudged(terms, self.eps, self.generator) - terms)
        if func is torch.ops.aten.clone.default:  # no arithmetic
            return found
        if any(r.alias_info is not None for r in func._schema.returns):  # a view, or in place
            return found
        if torch.Tag.nondeterministic_seeded in func.tags:
            if isinstance(found, Tensor):  # random numbers
                return found
            # Attention or dropout: the result, and what is saved for its backward.
            return (self._off(found[0]), *found[1:])
        return pytree.tree_map(self._off, found)

    def _off(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta:
            return value
        if value._is_zerotensor():  # the tangent of a constant: it has no memory to read
            return value
        return nudged(value, self.eps, self.generator)
