"""Equal bits, and distances in ULP."""

from __future__ import annotations

import pytest
import torch

from manualbp.parity import bit_identical, ulp_distance

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
