"""One tensor of the candidate against the reference's: what needs no number first, then the limits.

A missing tensor, another shape or dtype are decided before any number is compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from manualbp.parity.bits import bit_identical, to_double
from manualbp.parity.judge.limits import Limits, unequal
from manualbp.parity.record import TensorReport, without_numbers


def compare_tensors(
    name: str,
    candidate: Tensor | None,
    reference: Tensor | None,
    oracle: Tensor | NDArray[Any] | None,
    *,
    sums: Tensor | None = None,
    noise: Tensor | None = None,
    exact: bool = False,
) -> TensorReport:
    """They agree where ``rms(c - o) <= 2 rms(e) + rounding``, and each element in the same way.

    c is the candidate, o the oracle, e the reference's own error; judge/limits.py has the rule in
    full. A missing tensor, another shape or dtype differ without a number. Tensors that are not
    floating point must be equal.

    Args:
        name: of the tensor, for the report.
        candidate: the tensor under test; None where it is missing.
        reference: what it should equal; None where there is none.
        oracle: the same computed in float64, of the reference's shape.
        sums: float64, of the oracle's shape: the size of what each element was summed from.
        noise: float64, of the oracle's shape: what rounding alone does to each element. Without
            both, one size, the rms, stands for the whole tensor: right for the large elements, but
            blind to a fault in elements far smaller.
        exact: ask for the reference's bits.

    Returns:
        A TensorReport with the verdict, the errors and the reason.

    Raises:
        ValueError: the oracle is missing or of another shape than the reference.

    Example:
        >>> import torch
        >>> from manualbp.parity import compare_tensors
        >>> x = torch.linspace(-2, 2, 9)
        >>> right, oracle = x.tanh(), x.double().tanh()
        >>> compare_tensors("o", right, right, oracle).verdict
        'agree'
        >>> compare_tensors("o", right * 1.0001, right, oracle).verdict
        'DIFFER'
    """
    report = decided(name, candidate, reference, oracle)
    if report is not None:
        return report
    assert candidate is not None and reference is not None and oracle is not None
    return Limits.of(reference, to_double(oracle), sums, noise).report(name, candidate, exact)


def decided(
    name: str,
    candidate: Tensor | None,
    reference: Tensor | None,
    oracle: Tensor | NDArray[Any] | None,
) -> TensorReport | None:
    """The verdict where it needs no limits; None where numbers have to be compared.

    Raises:
        ValueError: the oracle is missing or of another shape than the reference.
    """
    if candidate is None or reference is None:
        return _missing(name, candidate, reference)
    shape, dtype = tuple(reference.shape), reference.dtype
    if tuple(candidate.shape) != shape:
        reason = f"shape {tuple(candidate.shape)}, expected {shape}"
        return without_numbers(name, reason, reference)
    if candidate.dtype != dtype:
        return without_numbers(name, f"dtype {candidate.dtype}, expected {dtype}", reference)
    if oracle is None or tuple(oracle.shape) != shape:
        got = None if oracle is None else tuple(oracle.shape)
        raise ValueError(f"the oracle of {name} must be {shape}, got {got}")
    if not dtype.is_floating_point:
        same_bits = bit_identical(candidate, reference)
        reason = "" if same_bits else unequal(candidate, reference)
        return without_numbers(name, reason, reference)
    return None


def _missing(name: str, candidate: Tensor | None, reference: Tensor | None) -> TensorReport:
    present = candidate if reference is None else reference
    if present is None:
        return replace(without_numbers(name, ""), reason="no gradient in either arm")
    arms = ("candidate", "reference") if candidate is None else ("reference", "candidate")
    reason = f"missing in the {arms[0]}, {tuple(present.shape)} in the {arms[1]}"
    return without_numbers(name, reason, present)
