"""How tensors lie in memory: copies that lie as the original does, and the same numbers elsewhere.

A kernel reads strides, a storage offset, elements that share memory. So an arm is called with
copies that have all three, and a situation changes nothing but them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Elements in front of a tensor, or between its first and its last, from which on a copy leaves
# them out: a column of a large data set would bring the whole data set along.
MOST_OFFSET, MOST_SPAN = 2**20, 2**26


def copy_as_laid(x: Tensor, change: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    """A copy with the strides, the storage offset and the overlaps of x.

    ``change`` makes the numbers of the copy from those of x. It is given x's memory as one line, so
    that elements which share memory go on sharing it. A copy whose memory would be far larger than
    x itself is laid out as ``torch.clone`` does.
    """
    offset = _offset(x)
    if offset is None:
        return change(x.detach())
    line = x.detach().as_strided((_span(x),), (1,))
    changed = change(line)
    memory = changed.new_zeros(offset + len(changed))
    memory[offset:] = changed
    # Not as a view of that memory: what a Function returns as a view cannot be edited in place.
    return memory.new_empty(0).set_(memory.untyped_storage(), offset, x.shape, x.stride())


def laid_as(x: Tensor, numbers: Tensor) -> Tensor:
    """Those numbers with the layout of x; where elements of x share memory, dense."""
    return numbers if _offset(x) is None or overlaps(x) else copy_as_laid(x).copy_(numbers)


def overlaps(x: Tensor) -> bool:
    """Whether elements share memory, as those of an expanded tensor do."""
    return x.layout is torch.strided and x.numel() > 0 and _span(x) < x.numel()


class _Copy(torch.autograd.Function):
    """The identity, as a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return copy_as_laid(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


def clone_as_laid(x: Tensor) -> Tensor:
    """``copy_as_laid`` that hands gradients on to x, as torch.clone does."""
    return x.clone() if _offset(x) is None else _Copy.apply(x)  # type: ignore[no-untyped-call]


def sliced(x: Tensor) -> Tensor:
    """The same numbers with a gap behind each: ``memory[..., ::2]``."""
    return _with_gaps(x)[..., ::2] if x.dim() else x


def transposed(x: Tensor) -> Tensor:
    """The same numbers with the strides of a transpose: column after column."""
    return x.mT.contiguous().mT if x.dim() > 1 else x


def expanded(x: Tensor) -> Tensor:
    """x's first number everywhere, and one place in memory: the gradient of a ``sum``."""
    return x.reshape(-1)[:1].clone().reshape([1] * x.dim()).expand(x.shape) if x.numel() else x


def _with_gaps(x: Tensor) -> Tensor:
    # The gaps hold other numbers of x's size: a kernel that reads them is wrong, but finite.
    wide = torch.stack([x, x.flip(-1)], -1).flatten(-2)
    return wide if x.shape[-1] > 0 else x.new_zeros((*x.shape[:-1], 0))


def _offset(x: Tensor) -> int | None:
    """The storage offset for a copy; None where it is to be dense, or x has no plain memory."""
    if x.layout is not torch.strided or type(x) not in (Tensor, torch.nn.Parameter):
        return None
    if not x.numel() or _span(x) > max(MOST_SPAN, 2 * x.numel()):
        return None
    plain = x.is_contiguous() and not x.storage_offset()
    return None if plain else int(x.storage_offset()) % MOST_OFFSET


def _span(x: Tensor) -> int:
    """Elements from the first to the last one in memory."""
    return 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
