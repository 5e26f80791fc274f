"""The standard ways in which gradients are wrong, to be planted into one that is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One gradient g of the candidate, in float64, and what faults are made of, in its own dtype.

    ``sums`` are the sizes of its sums. ``others`` are its other gradients. ``stale`` is the same
    gradient for the inputs of another row, ``dropped`` without one row of the batch. ``unit`` is
    the size a fault is measured by: rms(g), or the rms of its sums where g ``cancels``.
    """

    name: str
    g: Tensor
    sums: Tensor
    others: tuple[Tensor, ...]
    stale: Tensor | None
    dropped: Tensor | None
    rows: int
    eps: float
    unit: float
    cancels: bool = False


Fault = Callable[[Site], Tensor | None]  # None where it cannot be planted


def _transposed(s: Site) -> Tensor | None:
    if s.g.dim() != 2 or 1 in s.g.shape:
        return None
    return s.g.t().reshape(s.g.shape)  # not square: the numbers in the order of the transpose


def _swapped(s: Site) -> Tensor | None:
    partners = [other for other in s.others if other.numel() == s.g.numel()]
    return partners[0].reshape(s.g.shape) if partners else None


def _one_element(s: Site) -> Tensor:
    found = s.g.clone().flatten()
    found[found.numel() // 2] += s.unit
    return found.reshape(s.g.shape)


def _reduced_precision(s: Site) -> Tensor:
    """Half of the significand's bits: bfloat16 for float32."""
    bits = round(-math.log2(s.eps)) // 2
    mantissa, exponent = torch.frexp(s.g)
    return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)


def _noise(s: Site) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(s.g.shape, generator=generator, dtype=torch.float64)
    return s.g + math.sqrt(s.eps) * s.unit * noise


def _smallest_line(s: Site) -> Tensor | None:
    """The sign of the row, column or channel with the smallest numbers that rounding leaves."""
    known = s.g.abs() > LEAST_SEEN * s.eps * s.sums
    lines = []
    for dim, count in enumerate(s.g.shape):
        others = [d for d in range(s.g.dim()) if d != dim]
        size = s.g.square().mean(others).sqrt() if others else s.g.abs()
        told = known.sum(others) > 0 if others else known
        for i in (size.where(told, torch.inf).argmin(),) if count > 1 and told.any() else ():
            lines.append((float(size[i]), dim, i))
    if not lines:
        return None
    _, dim, index = min(lines, key=lambda line: line[0])
    found = s.g.clone()
    found.select(dim, int(index)).neg_()
    return found


ONE_ELEMENT = "one element off"
SMALLEST_LINE = "sign of the smallest line"
LEAST_SEEN = 64.0  # eps of its sums, from which an element's sign is not a matter of rounding
FAULTS: dict[str, Fault] = {
    "transposed": _transposed,
    "sign": lambda s: -s.g,
    SMALLEST_LINE: _smallest_line,
    "x 1.01": lambda s: s.g * 1.01,
    "x N": lambda s: s.g * s.rows,  # a sum for a mean
    "missing": lambda s: torch.zeros_like(s.g),
    "stale activation": lambda s: s.stale,
    "wrong mask": lambda s: s.g.where(s.g > 0, 0.0),  # of a ReLU, from delta instead of z
    "swapped parameters": _swapped,
    "one row dropped": lambda s: s.dropped,
    ONE_ELEMENT: _one_element,
    "reduced precision": _reduced_precision,
    "noise": _noise,
}
SMALL = ("reduced precision", "noise")  # small by their nature: they may stay unseen
# What can be told of a gradient that is zero but for rounding.
BESIDE_SUMS = (ONE_ELEMENT, "noise")
