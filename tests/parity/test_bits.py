"""Equal bits, and distances in ULP."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manualbp.parity import bit_identical, bits, ulp_distance
from manualbp.parity.bits import UNREACHABLE, largest_of, rms

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ulp_distance(dtype: torch.dtype) -> None:
    """Bit-exact: neighbours are 1 apart, across zero as well."""
    info = torch.finfo(dtype)
    one = torch.tensor([1.0, -1.0, 0.0, 1.0], dtype=dtype)
    next_up = torch.tensor([1 + info.eps, -1 + info.eps / 2, 0.0, torch.nan], dtype=dtype)
    assert ulp_distance(one, next_up).tolist() == [1, 1, 0, 2**63 - 1]
    zeros = torch.tensor([0.0, -0.0], dtype=dtype)
    assert ulp_distance(zeros, zeros.flip(0)).tolist() == [0, 0]
    tiny = torch.tensor([info.smallest_normal * info.eps], dtype=dtype)
    assert ulp_distance(tiny, -tiny).tolist() == [2]
    with pytest.raises(ValueError, match="of one shape and dtype"):
        ulp_distance(one, one[:2])


def test_bit_identical() -> None:
    nan = torch.tensor([torch.nan, 0.0])
    assert bit_identical(nan, nan.clone())
    assert not bit_identical(nan, torch.tensor([torch.nan, -0.0]))
    assert not bit_identical(nan, nan.double())
    assert bit_identical(
        torch.arange(6).view(2, 3), torch.arange(6).view(3, 2).t().reshape(2, 3)
    ) is (False)


def test_ulp_distance_does_not_overflow() -> None:
    huge = torch.tensor([1.7e308]).double()
    assert ulp_distance(huge, -huge).item() == 2**63 - 2


def test_part_by_part_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)).double()
    whole, top = rms(values), largest_of(Tensor.abs, values)
    monkeypatch.setattr(bits, "PART", 10)
    assert rms(values) == pytest.approx(whole, rel=1e-14)  # another order of the sum
    assert largest_of(Tensor.abs, values) == top == float(values.abs().max())
    assert largest_of(ulp_distance, values.t(), values.t() + 0) == 0
    values[6, 10] = torch.nan
    assert math.isnan(largest_of(Tensor.abs, values))
    assert largest_of(ulp_distance, values, values) == UNREACHABLE  # to the last of 63 bits
    assert largest_of(Tensor.abs, torch.zeros(0)) == 0 and rms(torch.zeros(0)) == 0


def test_sparse_and_complex_numbers_have_bits_too() -> None:
    """As buffers have them; another imaginary part, or another sign of zero, is another number."""
    eye = torch.eye(3)
    assert bit_identical(eye.to_sparse(), eye.to_sparse())
    assert not bit_identical(eye.to_sparse(), (2 * eye).to_sparse())
    turn = torch.polar(torch.ones(2, dtype=torch.float64), torch.tensor([0.5, 1.0]).double())
    assert bit_identical(turn, turn.clone())
    assert not bit_identical(turn, turn.conj())
    assert not bit_identical(torch.complex(torch.zeros(1), torch.zeros(1)),
                             torch.complex(torch.zeros(1), -torch.zeros(1)))  # fmt: skip
