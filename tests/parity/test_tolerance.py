"""The rule that says "agree": what it lets pass, and what it must catch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manualbp.parity.tolerance import bit_identical, compare_tensors, ulp_distance

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def rounded(dtype: torch.dtype, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """A float64 tensor and its rounding, as a reference of one rounding would give it."""
    torch.manual_seed(0)
    oracle = torch.randn(40, 30, dtype=torch.float64) * size
    return oracle.to(dtype), oracle


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e9])
def test_scale_free(size: float) -> None:
    """An error of 1 % is seen, and one of 1 ulp passes, whatever the size of the gradient."""
    reference, oracle = rounded(torch.float32, size)
    up = torch.nextafter(reference, torch.full_like(reference, torch.inf))
    assert compare_tensors("w", up, reference, oracle).agrees
    report = compare_tensors("w", reference * 1.01, reference, oracle)
    assert not report.agrees and "elements; worst [" in report.reason


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_element_off(dtype: torch.dtype) -> None:
    reference, oracle = rounded(dtype)
    candidate = reference.clone()
    candidate[3, 7] += 0.5
    report = compare_tensors("w", candidate, reference, oracle)
    assert not report.agrees and "1 of 1200 elements; worst [3, 7]" in report.reason


@pytest.mark.parametrize(
    "fault",
    [
        lambda r: r * 2,
        lambda r: -r,
        lambda r: torch.zeros_like(r),
        lambda r: r.flip(0),
        lambda r: r + 1e-3,
        lambda r: r.where(r > 0, 0),
        lambda r: r.bfloat16().float(),
        lambda r: r.index_fill(0, torch.tensor([5]), torch.nan),
    ],
    ids=["factor", "sign", "zero", "swapped", "offset", "mask", "precision", "nan"],
)
def test_planted_faults_are_caught(fault) -> None:  # type: ignore[no-untyped-def]
    reference, oracle = rounded(torch.float32)
    report = compare_tensors("w", fault(reference), reference, oracle)
    assert not report.agrees and report.reason


def test_nan_on_both_sides_is_no_agreement_unless_by_the_bit() -> None:
    reference, oracle = rounded(torch.float32)
    reference[0, 0] = torch.nan
    report = compare_tensors("w", reference.clone(), reference, oracle)
    assert not report.agrees and "NaN or infinity" in report.reason and report.bit_identical


def test_before_any_number() -> None:
    reference, oracle = rounded(torch.float32)
    for candidate, reason in [
        (None, "missing in the candidate"),
        (reference.t(), r"shape (30, 40), expected (40, 30)"),
        (reference.double(), "dtype torch.float64, expected torch.float32"),
    ]:
        report = compare_tensors("w", candidate, reference, oracle)
        assert not report.agrees and reason in report.reason
    assert not compare_tensors("w", reference, None, None).agrees
    assert compare_tensors("w", None, None, None).agrees  # neither has one: alike
    with pytest.raises(ValueError, match="the oracle of w must be"):
        compare_tensors("w", reference, reference, oracle[0])


def test_a_reference_that_is_wrong_itself_cannot_judge() -> None:
    reference, oracle = rounded(torch.float32)
    report = compare_tensors("w", reference * 1.7, reference * 1.8, oracle)
    assert not report.agrees and "cannot judge" in report.reason


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
