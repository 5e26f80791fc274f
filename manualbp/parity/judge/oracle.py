"""An independent oracle, held against the float64 run that judges everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from manualbp.parity.bits import to_double
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.record import TensorReport

# An oracle must meet the float64 run this closely, relative to the sums.
ORACLE_TOLERANCE = 1e-12


def with_oracle(
    comparison: Comparison, oracle: Mapping[str, NDArray[Any]]
) -> tuple[TensorReport, ...]:
    """The reports of a comparison; a tensor whose oracle is far from the float64 run differs.

    Raises:
        ValueError: the oracle names a tensor that is not compared.
    """
    if comparison.kind != "backward" or not oracle:
        return comparison.reports
    unknown = set(oracle) - set(comparison.theirs.tensors)
    if unknown:
        raise ValueError(
            f"the oracle names {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(comparison.theirs.tensors)}"
        )
    return tuple(
        _held(report, oracle[report.name], comparison) if report.name in oracle else report
        for report in comparison.reports
    )


def _held(report: TensorReport, oracle: NDArray[Any], comparison: Comparison) -> TensorReport:
    exact = comparison.yardstick.exact.get(report.name)
    if exact is None or tuple(oracle.shape) != tuple(exact.shape):
        shape = None if exact is None else tuple(exact.shape)
        return _refused(report, f"the oracle is {tuple(oracle.shape)}, the float64 run {shape}")
    apart, sums = (to_double(oracle) - exact).abs(), comparison.yardstick.sums_of(report.name)
    relative = torch.where(apart == 0, 0.0, apart / sums)
    difference = float(relative.max()) if relative.numel() else 0.0
    report = replace(report, oracle_difference=difference)
    if difference <= ORACLE_TOLERANCE:  # false for NaN
        return report
    reason = f"the oracle is {difference:.1e} from the float64 run, allowed {ORACLE_TOLERANCE}"
    return _refused(report, reason)


def _refused(report: TensorReport, reason: str) -> TensorReport:
    both = "; ".join(words for words in (report.reason, reason) if words)
    return replace(report, agrees=False, reason=both)
