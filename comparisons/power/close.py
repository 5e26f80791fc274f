"""Rules for gradients beside a reference's: x is the candidate's, y the reference's.

| rule | close where | who |
| --- | --- | --- |
| assert_close | abs(x - y) <= 1e-5 + 1.3e-6 abs(y), each element | torch.testing, its defaults |
| cosine | 1 - 2 <x, y> / (norm(x)^2 + norm(y)^2) < 1e-5 | Liger's test of its MLP |
| norm 8 % | norm(x - y) <= 0.08 norm(y) | Megatron's test of its optimizer |
| times size | abs(x - y) <= 2e-3 n (1 + abs(y)), n elements | JAX's check_grads, of two arrays |
| twice | max abs(x - o) <= 2 max abs(y - o) + rounding, o float64 | FlashAttention's tests |

assert_close of 16-bit and float64 gradients has other defaults; rounding is 2 max abs(o + 0.3 -
0.3 - o) in the gradients' dtype, and float64 gradients, which have no higher precision to be held
against, are always close. A gradient that one side lacks is not close.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from comparisons.power.pair import Pair, exact, gradients

LEAST_COSINE, LARGEST_NORM, GRADIENT_TOLERANCE = 1e-5, 0.08, 2e-3
Rule = Callable[[Tensor, Tensor, Tensor], bool]  # x, y, o


def assert_close(pair: Pair) -> bool:
    """torch.testing.assert_close fails on one of the gradients."""
    found, expected = gradients(pair, pair.candidate), gradients(pair, pair.reference)
    try:
        torch.testing.assert_close(found, expected)
    except AssertionError:
        return True
    return False


def cosine(x: Tensor, y: Tensor, o: Tensor) -> bool:
    """One number for a tensor, of direction and length."""
    x, y = x.double(), y.double()
    size = (x * x + y * y).sum()
    return bool(size == 0) or bool(1 - 2 * (x * y).sum() / size < LEAST_COSINE)


def norm(x: Tensor, y: Tensor, o: Tensor) -> bool:
    """The norm of what is wrong, over that of the gradient."""
    x, y = x.double(), y.double()
    return bool((x - y).norm() <= LARGEST_NORM * y.norm())


def times_size(x: Tensor, y: Tensor, o: Tensor) -> bool:
    """A tolerance that grows with the number of elements."""
    tolerance = GRADIENT_TOLERANCE * x.numel()
    return torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)


def twice(x: Tensor, y: Tensor, o: Tensor) -> bool:
    """The largest error is at most twice the reference's own."""
    if not o.numel() or y.dtype is torch.float64:
        return True
    rounded = o.to(y.dtype)
    rounding = 2 * (rounded + 0.3 - 0.3 - rounded).abs().max().double()
    worst, own = ((found.double() - o).abs().max() for found in (x, y))
    return bool(worst <= 2 * own + rounding)


def by_rule(rule: Rule, pair: Pair) -> bool:
    """Whether one of the gradients is not close by a rule."""
    found, expected = gradients(pair, pair.candidate), gradients(pair, pair.reference)
    for x, y, o in zip(found, expected, exact(pair), strict=True):
        if x is None or y is None or o is None:
            if x is not y:
                return True
        elif not rule(x, y, o):
            return True
    return False


CLOSE: dict[str, Callable[[Pair], bool]] = {
    "assert_close": assert_close,
    "cosine": partial(by_rule, cosine),
    "norm 8 %": partial(by_rule, norm),
    "times size": partial(by_rule, times_size),
    "twice": partial(by_rule, twice),
}
