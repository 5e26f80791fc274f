"""Kernels over many rows, and over memory that 32-bit indices do not reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from manualbp.fast.gpu.kernels import chain, errors, functions, linear

pytestmark = pytest.mark.kernels
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MANY = 2**20 if DEVICE == "cuda" else 2**13  # interpreted, a tile takes milliseconds
RELU, NONE = functions.ActivationCode("relu"), functions.ActivationCode()


def apart(rows: int, columns: int, distance: int) -> Tensor:
    """A matrix whose rows lie so far apart; what is between them is never touched."""
    memory = torch.empty(rows * distance, dtype=torch.float16, device=DEVICE)
    found = memory.as_strided((rows, columns), (distance, 1))
    return found.copy_(torch.randn(rows, columns))


def test_rows_beyond_two_to_the_31() -> None:
    """Bit-exact: the same numbers side by side give the same sums in the same order."""
    torch.manual_seed(0)
    rows, distance = 70, 2**25
    assert (rows - 1) * distance > 2**31
    h, g, w = apart(rows, 5, distance), apart(rows, 3, distance), torch.randn(3, 5, device=DEVICE)
    w = w.half()
    far, _ = linear.forward(h, w, None, RELU, False)
    near, _ = linear.forward(h.contiguous(), w, None, RELU, False)
    assert torch.equal(far, near) and float(far.abs().sum()) > 0
    far, of_far = linear.input_gradient(g, w, h, RELU, True)
    near, of_near = linear.input_gradient(g.contiguous(), w, h.contiguous(), RELU, True)
    assert torch.equal(far, near) and torch.equal(of_far, of_near)


def test_columns_beyond_two_to_the_31() -> None:
    """A transposed input: bit-exact, as above."""
    torch.manual_seed(0)
    h = apart(70, 20, 2**25).t()
    w = torch.randn(3, 70, device=DEVICE).half()
    far, _ = linear.forward(h, w, None, NONE, False)
    assert torch.equal(far, linear.forward(h.contiguous(), w, None, NONE, False)[0])


@pytest.mark.parametrize("rows", [MANY, MANY + 1])
def test_many_rows_of_a_net(rows: int) -> None:
    """Ones and halves, so that every sum is exact: C = N and dC/dW = 2 N / 2, to the bit."""
    x = torch.full((rows, 1), 0.5, device=DEVICE)
    w, b = torch.full((1, 1), 2.0, device=DEVICE), torch.ones(1, device=DEVICE)
    y = torch.ones(rows, 1, device=DEVICE)
    found = chain.step(
        x, y, [w], [b], [RELU], [False], errors.LossCode("mse"), False, [True], [True]
    )
    assert float(found.cost) == rows  # o = 2, (o - y)^2 = 1
    assert float(found.weights) == rows and float(found.biases) == 2 * rows


def test_many_rows_of_a_layer() -> None:
    """At most float32's own rounding away from float64: 2^-23 of the largest."""
    torch.manual_seed(0)
    h, w = torch.randn(MANY + 1, 3, device=DEVICE), torch.randn(5, 3, device=DEVICE)
    a, _ = linear.forward(h, w, None, NONE, False)
    exact = h.double() @ w.double().t()
    assert float((a.double() - exact).abs().max()) <= 2**-23 * float(exact.abs().max())
