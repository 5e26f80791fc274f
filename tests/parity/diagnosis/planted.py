"""Faults for the backward by hand, and what each is recognized as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity.diagnosis.by_hand import N, Rules, slope


def weight(change: Callable[[Tensor], Tensor], layer: int = 1) -> Rules:
    return Rules(weight=lambda k, d, h: change(d.t() @ h) if k == layer else d.t() @ h)


def bias(change: Callable[[Tensor], Tensor], layer: int = 1) -> Rules:
    return Rules(bias=lambda k, d: change(d) if k == layer else d.sum(0))


def times(at: Any, k: float) -> Callable[[Tensor], Tensor]:
    def change(g: Tensor) -> Tensor:
        g = g.clone()
        g[at] *= k
        return g

    return change


def noise(strength: float) -> Callable[[Tensor], Tensor]:
    def change(g: Tensor) -> Tensor:
        return g * (1 + strength * torch.randn(g.shape, generator=torch.Generator().manual_seed(3)))

    return change


def exchanged(g: list[Tensor]) -> list[Tensor]:
    return [g[0], g[3], g[2], g[1], *g[4:]]


def by_rows(change: Callable[[Tensor, Tensor], Tensor], layer: int = 1) -> Rules:
    """Another weight gradient made of delta and h."""
    return Rules(weight=lambda k, d, h: change(d, h) if k == layer else d.t() @ h)


def dropped(rows: slice | list[int], k: float = 0.0) -> Rules:
    return by_rows(lambda d, h: times(rows, k)(d).t() @ h)


def only_at(layer: int, change: Callable[[Tensor], Tensor]) -> Rules:
    return Rules(slope=lambda l, z: change(z) if l == layer else slope(l, z))  # noqa: E741


def garbage(d: Tensor, h: Tensor) -> Tensor:
    return torch.cat([d[:-4], d[-4:].roll(1, 1)]).t() @ h


def odd_when_long(d: Tensor, h: Tensor) -> Tensor:
    return d.t() @ h.roll(1, 1).abs() if len(d) > 7 else d.t() @ h


W, B = "2.weight.grad", "2.bias.grad"
# Right, but summed in another order.
OTHER_BITS = Rules(weight=lambda _, d, h: (h.t().flip(1) @ d.flip(0)).t())
# The fault, the tensor that shows it, its kind and words.
FAULTS: dict[str, tuple[Rules, str, str, str]] = {
    "zero": (weight(torch.zeros_like), W, "zero", "zero everywhere"),
    "NaN": (weight(times((2, 3), float("nan"))), W, "not finite", r"1 of 64 elements NaN, .*2, 3"),
    "sum for mean": (bias(lambda d: d.sum(0) * len(d)), B, "factor", "sum over the 13 rows where"),
    "mean for sum": (bias(lambda d: d.mean(0)), B, "factor", "mean over the 13 rows where"),
    "a length it does not follow": (bias(lambda d: d.sum(0) * N), B, "factor",
                                    r"= 13.00 x reference, cosine 1.000;"),
    "all outputs": (bias(lambda d: d.sum(0) * 5 * len(d)), B, "factor", "sum over all 65 outputs"),
    "twice": (weight(lambda g: 2 * g), W, "factor", r"2.weight.grad = 2.000 x .* counted twice"),
    "half": (weight(lambda g: g / 2), W, "factor", "half of it is missing"),
    "sqrt": (weight(lambda g: g / 8**0.5), W, "factor", r"= 0.3536 x reference, cosine 1.000;"),
    "plain": (weight(lambda g: g * 0.7), W, "factor", "= 0.7000 x reference, cosine 1.000"),
    "1 %": (weight(lambda g: g * 1.01), W, "factor", "= 1.010 x reference"),
    "sign": (weight(lambda g: -g), W, "sign", "cosine -1.000"),
    "transposed": (weight(lambda g: g.t()), W, "transposed", "order of the transpose"),
    "read in another order": (
        weight(lambda g: g.t().contiguous().view(g.shape), 0), "0.weight.grad", "transposed", ""),
    "reversed": (weight(lambda g: g.flip(1)), W, "reordered", "columns reversed"),
    "rolled": (weight(lambda g: g.roll(1, 0)), W, "reordered", "rows rolled by 1"),
    "halves": (weight(lambda g: g.roll(4, 0)), W, "reordered", "two halves of the rows exchanged"),
    "two exchanged": (weight(lambda g: g[[0, 5, 2, 3, 4, 1, 6, 7]]), W, "reordered",
                      "rows 1 and 5 exchanged"),
    "swapped": (Rules(order=exchanged), B, "swapped", "exchanged with the gradient of 0.bias"),
    "bfloat16": (weight(lambda g: g.bfloat16().float()), W, "precision", "8 sig.* bfloat16"),
    "float16": (weight(lambda g: g.half().float()), W, "precision", "11 sig.* float16"),
    "element": (weight(times((2, 3), 2.0)), W, "element", r"\[2, 3\]"),
    "element 1 %": (weight(times((2, 3), 1.01)), W, "element", r"\[2, 3\]"),
    "element of a bias": (bias(lambda d: times(4, 0.5)(d.sum(0))), B, "element", r"\[4\]"),
    "row": (weight(times(5, 0.0)), W, "line", "row 5 of 8 differs, which is zero"),
    "column 1 %": (weight(times((slice(None), 3), 1.01)), W, "line", "column 3 of 8 .* 1.01 x"),
    "last columns": (weight(times((slice(None), slice(5, None)), 3.0)), W, "lines",
                     "columns 5 to 7 of 8 differ, there 3 x reference;"),
    "two rows": (weight(times([1, 4], 0.9)), W, "lines", "rows 1 and 4 of 8"),
    "constant": (weight(lambda g: g + 0.25), W, "offset", r"reference \+ 0.25 everywhere"),
    "along": (weight(lambda g: g + torch.arange(1.0, 9.0).to(g)[:, None]), W, "offset",
              "along dimension 1"),
    "a mean too much": (weight(lambda g: g + g.mean(1, keepdim=True)), W, "missing term",
                        r"lacks -0.5 \* mean\(g, 1\)"),
    "dropped": (dropped([5]), W, "rows", "contribution of row 5 of 13 is missing"),
    "dropped tile": (dropped(slice(-4, None)), W, "rows",
                     "of rows 9 to 12 of 13 is missing: the last tile"),
    "row twice": (dropped([5], 2.0), W, "rows", "row 5 of 13 counted twice"),
    "row 1 %": (dropped([0], 1.01), W, "rows", "row 0 of 13 counts 1.01 times"),
    "garbage": (by_rows(garbage), W, "rows", "wrong only in rows 9 to 12 of 13: the last tile"),
    "long": (by_rows(odd_when_long), W, "batch length", "up to 7 rows, wrong from 8 on"),
    "no mask": (only_at(1, torch.ones_like), W, "mask", "<= 0: the mask"),
    "inverted mask": (only_at(1, lambda z: (z <= 0).to(z.dtype)), W, "mask", "inverted"),
    "leak": (only_at(1, lambda z: slope(1, z).clamp(min=0.01)), W, "mask", "<= 0: the mask"),
    "no derivative": (only_at(0, torch.ones_like), "0.bias.grad", "derivative",
                      "the derivative of tanh is missing"),
    "f'(a)": (only_at(0, lambda z: 1 - z.tanh().tanh() ** 2), "0.weight.grad", "derivative",
              r"f'\(a\) in place of f'\(z\)"),
    "1 - z^2": (only_at(0, lambda z: 1 - z**2), "0.bias.grad", "derivative", r"1 - z\^2"),
    "noise": (weight(noise(0.3)), W, "unknown", r"no known pattern: cosine 0\.\d+, relative"),
    "noise 1 %": (weight(noise(0.01)), W, "unknown", "cosine 1, relative error 0.01"),
    "noise in a bias": (bias(lambda d: noise(0.3)(d.sum(0))), B, "unknown", "no known pattern"),
}  # fmt: skip
