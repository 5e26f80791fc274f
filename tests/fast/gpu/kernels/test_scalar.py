"""exp, log and their kin against NumPy's in float64, in units in the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from manualbp.fast.gpu.kernels import scalar

pytestmark = pytest.mark.kernels

Numbers = NDArray[np.floating[Any]]
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
# By name: the function in float64, where it is defined, and its bound as measured when interpreted.
FUNCTIONS: dict[str, tuple[Callable[[Numbers], Numbers], float, float, float]] = {
    "exp": (np.exp, -np.inf, np.inf, 2),
    "expm1": (np.expm1, -np.inf, 0, 2),
    "log": (np.log, 1, np.inf, 2),
    "log1p": (np.log1p, 0, 1, 2),
    "tanh": (np.tanh, -np.inf, np.inf, 3),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -np.inf, np.inf, 3),
}
COMPILED = 2  # more units: PTX's div.full.f32 is within them, and products and sums are fused


@triton.jit
def _applied(x, y, N, NAME: tl.constexpr, SIZE: tl.constexpr):
    """y = the function of that name of x."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    v = tl.load(x + at, mask=at < N, other=1.0)
    if NAME == "exp":
        r = scalar.exp(v)
    elif NAME == "expm1":
        r = scalar.expm1(v)
    elif NAME == "log":
        r = scalar.log(v)
    elif NAME == "log1p":
        r = scalar.log1p(v)
    elif NAME == "tanh":
        r = scalar.tanh(v)
    else:
        r = scalar.sigmoid(v)
    tl.store(y + at, r, mask=at < N)


def applied(name: str, x: Numbers, device: str) -> Numbers:
    values = torch.as_tensor(x, device=device)
    found, size = torch.empty_like(values), 2**13
    _applied[(triton.cdiv(len(x), size),)](values, found, len(x), name, size)
    return found.cpu().numpy()


def numbers(low: float, high: float) -> Numbers:
    """Of both signs and every exponent, and evenly where most functions have their bends."""
    everywhere = np.arange(0, 2**32, 8191, dtype=np.uint32).view(np.float32)
    even = np.linspace(-110, 110, 2**19, dtype=np.float32)
    near = np.linspace(-1, 2, 2**18, dtype=np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 88.7, 88.72284, -87.4, -103.9, 1e-20,
                        -1e-20, 1e-42, -1e-42, SMALLEST, -SMALLEST, LARGEST, -LARGEST, 1.0],
                       dtype=np.float32)  # fmt: skip
    x = np.concatenate([everywhere, even, near, special])
    return x[((x >= low) & (x <= high)) | np.isnan(x)]


@np.errstate(all="ignore")
def apart(name: str, x: Numbers, found: Numbers) -> float:
    """The most units in the last place that any number is off; infinite where one has no size.

    A sigmoid below the smallest normal number may be 0, as PyTorch's is.
    """
    exact = FUNCTIONS[name][0](x.astype(np.float64))
    unit = np.spacing(np.clip(np.abs(exact), None, LARGEST).astype(np.float32)).astype(np.float64)
    difference = np.abs(found.astype(np.float64) - exact) / unit
    over = np.isinf(found) & (found == np.sign(exact) * np.inf) & (np.abs(exact) > LARGEST)
    same = over | (found == exact) | (np.isnan(found) & np.isnan(exact))
    if name == "sigmoid":
        same |= (found == 0) & (exact < SMALLEST)
    return float(np.nan_to_num(np.where(same, 0, difference), nan=np.inf).max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place(name: str, device: str) -> None:
    """Below 2, tanh and sigmoid below 3; subnormals, infinities and NaN among them."""
    _, low, high, most = FUNCTIONS[name]
    x = numbers(low, high)
    assert len(x) > 2**17
    assert apart(name, x, applied(name, x, device)) < most + (COMPILED if device == "cuda" else 0)


def test_zeros_have_no_sign_where_none_is_expected(device: str) -> None:
    """Bit-exact: tanh(0) is 0, and so are e^0 - 1 and log 1."""
    x = np.zeros(3, np.float32)
    for name, at in (("tanh", x), ("expm1", x), ("log1p", x), ("log", x + 1)):
        found = applied(name, at, device)
        assert not np.signbit(found).any() and not found.any(), name


@np.errstate(all="ignore")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("exp", lambda x: np.exp(np.clip(x, -87, None))),  # subnormals lost
        ("exp", lambda x: np.exp(x) * np.float32(1 + 2**-20)),
        ("exp", lambda x: np.exp(np.nan_to_num(x, nan=0.0))),
        ("expm1", lambda x: np.exp(x) - 1),
        ("log1p", lambda x: np.log(1 + x)),
        ("log", lambda x: np.log(np.clip(x, None, 1e38))),
        ("tanh", lambda x: 1 - 2 / (np.exp(2 * x) + 1)),
        ("sigmoid", lambda x: np.exp(x) / (1 + np.exp(x))),  # infinity by infinity
    ],
)
def test_planted_formulas_are_caught(name: str, wrong: Callable[[Numbers], Numbers]) -> None:
    """In float32, right in real numbers or nearly."""
    _, low, high, most = FUNCTIONS[name]
    x = numbers(low, high)
    assert apart(name, x, wrong(x).astype(np.float32)) > most + COMPILED
