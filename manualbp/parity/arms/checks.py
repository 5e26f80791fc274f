"""What callers pass, refused in words before anything is run: numbers, seeds, dtypes, losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

# Torch and NumPy take seeds below this, and what is drawn from them stays within 64 bits.
SEEDS = 2**32


def check_whole(what: str, got: Any, least: int) -> int:
    """A whole number of at least ``least``.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small.
    """
    if not isinstance(got, Integral) or isinstance(got, bool):
        raise TypeError(f"expected {what} to be a whole number, got {got!r}; pass an int")
    if got < least:
        raise ValueError(f"expected {what} to be at least {least}, got {got}")
    return int(got)


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """Seeds as plain numbers, from 0 to 2**32 - 1.

    Raises:
        TypeError: they are no sequence of whole numbers.
        ValueError: there is none, or one is out of range.
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        shown = f"({seeds},), or range({seeds}) for as many" if isinstance(seeds, int) else "(0, 1)"
        raise TypeError(f"expected seeds to be several whole numbers, got {seeds!r}; pass {shown}")
    found = tuple(check_whole("each of the seeds", seed, 0) for seed in seeds)
    if not found:
        raise ValueError("expected at least one seed, got none; pass seeds=(0,)")
    if max(found) >= SEEDS:
        raise ValueError(f"expected seeds below 2**32, got {max(found)}; choose smaller ones")
    return found


def check_dtype(what: str, dtype: Any) -> torch.dtype:
    """A floating-point dtype.

    Raises:
        TypeError: it is no dtype.
        ValueError: it is one of whole or complex numbers.
    """
    if not isinstance(dtype, torch.dtype):
        known = isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype)
        remedy = f"torch.{dtype}" if known else "one, such as torch.float64"
        raise TypeError(f"expected {what} to be a torch.dtype, got {dtype!r}; pass {remedy}")
    if not dtype.is_floating_point:
        raise ValueError(
            f"expected floating-point dtypes, got {what}={dtype}; pass torch.float32 or another "
            "with gradients"
        )
    return dtype


def check_loss(what: str, loss: Any) -> Callable[..., Tensor]:
    """A function of the output and the target.

    Raises:
        TypeError: it cannot be called, or is a class.
    """
    if callable(loss) and not isinstance(loss, type):
        return loss
    remedy = "pass one, such as torch.nn.MSELoss()"
    if isinstance(loss, type):
        function = issubclass(loss, torch.autograd.Function)
        remedy = f"pass {loss.__name__}.apply" if function else f"call it first: {loss.__name__}()"
    raise TypeError(f"expected {what} to be a function of (output, target), got {loss!r}; {remedy}")


def check_tensor(name: str, value: Tensor) -> None:
    """There is a rule for dense real numbers, and for no others.

    Raises:
        TypeError: the tensor is complex, sparse, nested, quantized or without numbers.
    """
    if value.is_complex():
        kind, got, remedy = "real", f"of {value.dtype}", "compare torch.view_as_real of it"
    elif value.is_nested:
        kind, got, remedy = "plain", "nested", "compare to_padded_tensor of it"
    elif value.layout is not torch.strided:
        kind, got = "dense", f"of layout {value.layout}"
        remedy = "compare to_dense of it, and let the arm make it sparse inside"
    elif value.is_quantized:
        kind, got, remedy = "real", f"of {value.dtype}", "compare dequantize of it"
    elif value.is_meta:
        kind, got = "real", "on the meta device, without numbers"
        remedy = "make it on the CPU"
    else:
        return
    raise TypeError(f"expected {kind} tensors, got {name} {got}; {remedy}")
