"""Tensors by bits and size: equal bits, distance in ULP, rms, the same numbers in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# The ULP distance to a NaN.
UNREACHABLE = torch.iinfo(torch.int64).max
PART = 2**18  # elements that are looked at together: they stay in a cache
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bit_identical(a: Tensor, b: Tensor) -> bool:
    """Same shape, same dtype, same bits: NaN equals the same NaN, -0.0 differs from 0.0.

    Args:
        a: of any shape, dtype and device.
        b: the same; also on another device.

    Returns:
        True or False; another shape or dtype is no error.

    Example:
        >>> import torch
        >>> from manualbp.parity import bit_identical
        >>> zero, nan = torch.tensor([0.0]), torch.tensor([float("nan")])
        >>> bit_identical(zero, -zero), bit_identical(nan, nan)
        (False, True)
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(_bits(a), _bits(b))


def both_identical(a: Tensor | None, b: Tensor | None) -> bool:
    """``bit_identical``, or neither is there."""
    return a is b if a is None or b is None else bit_identical(a, b)


def differing_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where the bits of two tensors of one shape and dtype differ, on the CPU."""
    return _bits(a) != _bits(b)


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """Representable numbers from a to b, elementwise, int64; 0.0 and -0.0 are the same number.

    Args:
        a: of any shape and floating dtype.
        b: of a's shape and dtype.

    Returns:
        An int64 tensor of a's shape on the CPU; the largest int64 where a or b is NaN.

    Raises:
        ValueError: another shape or dtype, or no floating-point dtype.

    Example:
        >>> import torch
        >>> from manualbp.parity import ulp_distance
        >>> one = torch.ones(2)
        >>> ulp_distance(one, torch.tensor([1 + 2**-23, 1 - 2**-23]))  # finer below 1
        tensor([1, 2])
    """
    if a.shape != b.shape or a.dtype != b.dtype or not a.dtype.is_floating_point:
        raise ValueError(
            f"expected two floating-point tensors of one shape and dtype, "
            f"got {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        )
    x, y = _bits(a).to(torch.int64), _bits(b).to(torch.int64)
    # The bits of a float are sign and magnitude; magnitudes count the numbers from zero up.
    sign = torch.iinfo(_INTEGERS[a.element_size()]).min
    m, n = x & ~sign, y & ~sign
    half = 2**62 - 1  # so that the sum of two float64 magnitudes stays an int64
    apart = m.clamp(max=half) + n.clamp(max=half)
    distance = torch.where((x < 0) == (y < 0), (m - n).abs(), apart)
    nan = (torch.isnan(a) | torch.isnan(b)).cpu()
    return distance.masked_fill(nan, UNREACHABLE)


def to_double(values: Tensor | NDArray[Any]) -> Tensor:
    """The same numbers on the CPU in float64, without a graph."""
    return torch.as_tensor(values).detach().to("cpu", torch.float64)


def rms(values: Tensor) -> float:
    """sqrt(mean(values^2)), scaled by the largest so that squares neither vanish nor overflow."""
    top = largest_of(Tensor.abs, values)
    if top == 0:
        return 0.0
    total = sum(float((part / top).square_().sum()) for part in _parts(values))
    return top * math.sqrt(total / values.numel())


def largest_of(function: Callable[..., Tensor], *tensors: Tensor) -> Any:
    """The largest value of an elementwise function, part by part so that memory stays small.

    NaN where there is one; 0 of empty tensors.
    """
    found = [function(*parts).max().item() for parts in zip(*map(_parts, tensors), strict=True)]
    return math.nan if any(map(math.isnan, found)) else max(found, default=0)


def _parts(values: Tensor) -> tuple[Tensor, ...]:
    return torch.split(values.reshape(-1), PART) if values.numel() else ()


def largest(values: Tensor) -> float:
    """The largest value; 0 of an empty tensor."""
    return float(values.max()) if values.numel() else 0.0


def _bits(values: Tensor) -> Tensor:
    plain = values.detach().to_dense()  # buffers may be sparse, and may be complex
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    return plain.cpu().contiguous().view(_INTEGERS[plain.element_size()])
