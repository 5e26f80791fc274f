"""The rule that says "agree": what it lets pass, and what it must catch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manualbp.parity import compare_tensors
from manualbp.parity.judge.limits import Limits
from manualbp.parity.record import AGREE, DIFFER, NOT_JUDGED

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


def test_nan_on_both_sides_cannot_be_judged_but_by_the_bit() -> None:
    reference, oracle = rounded(torch.float32)
    reference[0, 0] = torch.nan
    report = compare_tensors("w", reference.clone(), reference, oracle)
    assert report.verdict == NOT_JUDGED and report.bit_identical
    assert report.reason == "the reference itself is NaN or infinite in 1 of 1200 elements"
    assert compare_tensors("w", reference.clone(), reference, oracle, exact=True).agrees


def test_a_fault_beside_a_nan_of_both_is_seen() -> None:
    reference, oracle = rounded(torch.float32)
    reference[0, 0] = torch.nan
    wrong = reference.clone()
    wrong[3, 4] *= 1.01
    report = compare_tensors("w", wrong, reference, oracle)
    assert report.verdict == DIFFER and report.worst is not None and report.worst.index == (3, 4)
    wrong = reference.clone()
    wrong[0, 0] = torch.inf
    assert compare_tensors("w", wrong, reference, oracle).verdict == DIFFER


def test_an_oracle_that_is_no_float64() -> None:
    """What is coarser than its dtype differs all the same; what is finer is not judged."""
    oracle = rounded(torch.float64)[1]
    oracle = oracle.float().double()
    reference = oracle.clone()
    reference[0, 0] = oracle[0, 0] = -torch.inf  # as a mask has it
    for factor, verdict in ((1 + 1e-9, NOT_JUDGED), (1.01, DIFFER), (1.0, AGREE)):
        limits = Limits.of(reference, oracle, lowered=torch.float32)
        report = limits.report("w", factor * reference)
        assert report.verdict == verdict
        exact_oracle = compare_tensors("w", factor * reference, reference, oracle)
        assert exact_oracle.verdict == (AGREE if factor == 1 else DIFFER)


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


EPS = 2.0**-23
# Enough elements that one of them does not move the rms to its own limit.
ONES, ZEROS = torch.ones(400).double(), torch.zeros(400).double()


def agrees(error: float | Tensor, **known: Tensor) -> bool:
    """Whether ones that are off by ``error`` pass, beside a reference that is exact."""
    candidate = (ONES + error).float()
    return compare_tensors("w", candidate, ONES.float(), ONES, **known).agrees


def test_where_the_lines_are_drawn() -> None:
    """Each constant of the rule, on both sides: a looser one would let a fault pass."""
    one = torch.eye(400).double()[7]
    assert agrees(2 * EPS, noise=ZEROS) and not agrees(3 * EPS, noise=ZEROS)  # RMS_FLOOR
    # ELEMENT_FLOOR and LINE_FLOOR together, for terms of size 1 everywhere; then each alone.
    assert agrees(17 * EPS * one, noise=ZEROS) and not agrees(18 * EPS * one, noise=ZEROS)
    sums = torch.ones(40, 40).double()
    sums[2] = 4.0  # in its row the rms is 4, in its columns sqrt(55 / 40)
    for limit, place in ((16 * 4 + math.sqrt(55 / 40), 87), (17, 7)):
        for off, judges in ((-1, True), (1, False)):
            apart = (limit + off) * EPS * torch.eye(1600).double()[place].view(40, 40)
            reference = torch.ones(40, 40).double()
            c, r = (reference + apart).float(), reference.float()
            report = compare_tensors("w", c, r, reference, sums=sums, noise=0 * sums)
            assert report.agrees is judges
    noise = torch.full((400,), 2.0**-13).double()
    assert agrees(1.9 * 2.0**-13, noise=noise) and not agrees(2.1 * 2.0**-13, noise=noise)  # FACTOR
    for off, judges in ((1.2, True), (1.3, False)):  # REFERENCE_LIMIT
        reference = (ONES * off).float()
        report = compare_tensors("w", reference * (1 + 2.0**-20), reference, ONES)
        assert report.agrees is judges


def test_the_references_own_error_counts_beside_the_twins() -> None:
    c, r = (ONES - 2.0**-12).float(), (ONES + 2.0**-12).float()
    assert compare_tensors("w", c, r, ONES, noise=ZEROS).agrees


def test_equal_bits_need_no_yardstick() -> None:
    reference = (ONES * 1.8).float()
    assert compare_tensors("w", reference.clone(), reference, ONES).agrees


def test_sizes_are_at_least_the_value_and_a_denormal_step() -> None:
    assert agrees(EPS, sums=ZEROS, noise=ZEROS)
    step = torch.full((400,), 2.0**-149)
    assert compare_tensors("w", step, torch.zeros(400), ZEROS, sums=ZEROS, noise=ZEROS).agrees


def test_numbers_are_against_the_reference() -> None:
    c, r = torch.tensor([0.0, 3.0]), torch.tensor([0.0, 1.0])
    report = compare_tensors("w", c, r, torch.zeros(2).double())
    assert report.max_abs == 2 and report.max_rel == pytest.approx(2 / 3)


@pytest.mark.parametrize("arm", range(3))
def test_nan_in_one_arm_alone(arm: int) -> None:
    tensors = [torch.ones(3), torch.ones(3), torch.ones(3).double()]
    tensors[arm][0] = torch.nan
    report = compare_tensors("w", *tensors)
    assert report.verdict == (NOT_JUDGED if arm == 2 else DIFFER)
    assert ("in 1 of 3 elements" if arm == 2 else "1 in the") in report.reason


def test_equal_infinities_are_set_aside() -> None:
    """Minus infinity where a mask says so; the rest is judged as ever."""
    reference = torch.tensor([-torch.inf, 1.0, 2.0])
    args = reference, reference.double()
    assert compare_tensors("w", reference + 1e-8, *args).agrees
    assert not compare_tensors("w", reference * torch.tensor([1, 1.01, 1]), *args).agrees
    report = compare_tensors("w", reference * torch.tensor([-1.0, 1, 1]), *args)
    assert not report.agrees and "NaN or infinity" in report.reason
    finite = compare_tensors("w", torch.tensor([0.0, 1.0, 2.0]), *args)
    assert not finite.agrees


def test_asked_for_bits() -> None:
    reference, oracle = rounded(torch.float32)
    up = torch.nextafter(reference, torch.full_like(reference, torch.inf))
    up[0] = reference[0]
    report = compare_tensors("w", up, reference, oracle, exact=True)
    assert (
        not report.agrees and "other bits in 1170 of 1200 elements; first [1, 0]" in report.reason
    )
    assert compare_tensors("w", reference.clone(), reference, oracle, exact=True).agrees


def test_whole_numbers_must_be_equal() -> None:
    indices = torch.tensor([3, 1, 2])
    assert compare_tensors("top", indices.clone(), indices, indices).agrees
    report = compare_tensors("top", torch.tensor([3, 2, 1]), indices, indices)
    assert "other bits in 2 of 3 elements; first [1]: got 2, expected 1" in report.reason
