"""What the rule can see on this very pair: standard faults, planted into the candidate's gradients.

A verdict "agree" is worth what it would have refused. So every gradient of the candidate is made
wrong in each way of faults.py and judged again by the same yardstick, and a bisection finds the
smallest d for which g * (1 + d) is seen to differ from g.

"agree" is refused where a fault of ``VISIBLE`` or more of the gradient's rms stays unseen (of 16
eps of the dtype, where that is more: 12 % in bfloat16), and where a gradient is exactly zero, so
that nothing was exercised. A gradient with the reference's bits is not asked for a size: it has no
rounding of its own that hides a fault. One whose terms cancel to the rounding of float64, for other
inputs as well, is zero by nature (a bias before BatchNorm, the key bias of attention). Its faults
are measured by its sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from manualbp.parity.arms.forward import Tensors, only_rows
from manualbp.parity.arms.layouts import laid_as
from manualbp.parity.arms.rounding import nudged
from manualbp.parity.bits import rms, to_double
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.faults import (
    BESIDE_SUMS,
    FAULTS,
    ONE_ELEMENT,
    SMALL,
    SMALLEST_LINE,
    Site,
)
from manualbp.parity.judge.limits import ELEMENT_FLOOR
from manualbp.parity.power_record import Planted, PowerReport

VISIBLE = 0.01
# Where the float64 run's rms(g) is below so many of float64's eps of its sums, rounding is all that
# is left of g. In the working dtype rounding may hide a gradient that is not zero.
CANCELS = 32.0 * torch.finfo(torch.float64).eps
BISECTIONS = 16
Judge = Callable[[Tensor], bool]  # whether a gradient differs


def measure_power(comparison: Comparison) -> PowerReport:
    """Plant every standard fault into every gradient of a ``backward`` comparison."""
    ours = {n: g for n, g in comparison.ours.tensors.items() if n.endswith(".grad")}
    present = {n: g for n, g in ours.items() if g is not None and g.isfinite().all()}
    generator = torch.Generator().manual_seed(0)
    # Its gradients for the inputs of another row, without a row, and for other inputs.
    reruns = {
        "stale": _for_inputs(comparison, _of_another_row),
        "dropped": _without_a_row(comparison),
        "elsewhere": _for_inputs(comparison, lambda x: nudged(x, 0.5, generator)),
    }
    planted: list[Planted] = []
    smallest: dict[str, float] = {}
    missing = [] if present else ["no gradient was compared: nothing asks for one"]
    wrong = {report.name for report in comparison.reports if not report.agrees}
    for name in present:
        if name in wrong:  # a fault may well make it right
            continue
        site = _site(comparison, name, present, reruns)
        if site.unit == 0:
            missing.append(
                f"{name} is exactly zero, so nothing of its backward was exercised: dead units, "
                "an output it does not reach, or a loss at its minimum; choose other inputs"
            )
            continue
        differs = comparison.judge_of(name)
        tried, reasons = _plant(comparison, site, differs)
        planted += tried
        missing += reasons
        smallest[name] = _smallest(comparison, site, differs)
    return PowerReport(tuple(planted), smallest, tuple(missing))


def pooled(one: PowerReport, other: PowerReport) -> PowerReport:
    """What is seen by two checks together: one of them suffices."""
    seen = {(p.fault, p.tensor) for p in (*one.planted, *other.planted) if p.caught}
    every = dict.fromkeys((p.fault, p.tensor) for p in (*one.planted, *other.planted))
    causes = {_cause(reason) for reason in other.missing}
    return PowerReport(
        tuple(Planted(*key, caught=key in seen) for key in every),
        {n: min(d, other.smallest.get(n, d)) for n, d in (other.smallest | one.smallest).items()},
        tuple(reason for reason in one.missing if _cause(reason) in causes),
    )


def _cause(reason: str) -> str:
    """What a reason is about, without its numbers."""
    return reason.partition(":")[0]


def _site(
    comparison: Comparison, name: str, present: Mapping[str, Tensor], reruns: Mapping[str, Tensors]
) -> Site:
    """One gradient; its unit is 0 where there is nothing to measure a fault by."""
    g, s = to_double(present[name]), comparison.yardstick.sums_of(name)
    sums = rms(s)
    eps = torch.finfo(comparison.dtype(name)).eps
    again = {how: found.get(name) for how, found in reruns.items()}
    other = again.pop("elsewhere")
    cancels = rms(comparison.yardstick.exact[name]) < CANCELS * sums and (
        other is None or rms(to_double(other)) < math.sqrt(eps) * sums
    )
    return Site(
        name, g, s, tuple(other for n, other in present.items() if n != name), **again,
        rows=max(comparison.rows or 1, 2), eps=eps, unit=sums if cancels else rms(g),
        cancels=cancels,
    )  # fmt: skip


def _plant(comparison: Comparison, site: Site, differs: Judge) -> tuple[list[Planted], list[str]]:
    """Every fault that can be planted here, and why "agree" is refused."""
    same_bits = site.name in {r.name for r in comparison.reports if r.bit_identical}
    least = max(0.9 * VISIBLE, ELEMENT_FLOOR * site.eps)
    planted, missing = [], []
    for fault in BESIDE_SUMS if site.cancels else FAULTS:
        caught = _caught(comparison.dtype(site.name), site, fault, differs)
        if caught is None:
            continue
        seen, size = caught
        planted.append(Planted(fault, site.name, seen))
        if not seen and size >= least and fault not in SMALL and not same_bits:
            times = rms(comparison.yardstick.sums_of(site.name)) / site.unit
            missing.append(
                f"{fault!r} is not seen in {site.name}: a change of {size:.1e} is below the "
                f"rounding of its sums, which are {times:.0e} times as large as what is "
                "left of them; compare in float64, or choose other inputs"
            )
    return planted, missing


def _caught(
    dtype: torch.dtype, site: Site, fault: str, differs: Judge
) -> tuple[bool, float] | None:
    """Whether a fault is seen, and its size over the unit; None where it changes nothing."""
    wrong = FAULTS[fault](site)
    if wrong is None or wrong.shape != site.g.shape:
        return None
    wrong = wrong.to(dtype)
    apart = to_double(wrong) - site.g
    change = float(apart.abs().max()) if fault == ONE_ELEMENT else rms(apart)
    size = 2.0 if fault == SMALLEST_LINE else change / site.unit
    if change == 0 or (size < 0.9 * VISIBLE and fault not in SMALL):
        return None  # such as the mask of a gradient that is positive everywhere
    return differs(wrong), size


def _smallest(comparison: Comparison, site: Site, differs: Judge) -> float:
    """The smallest d for which g (1 + d), or g + d s where g cancels, is seen; by bisection."""
    step = comparison.yardstick.sums_of(site.name) if site.cancels else site.g
    dtype = comparison.dtype(site.name)

    def seen(d: float) -> bool:
        return differs((site.g + d * step).to(dtype))

    low, high = math.log2(site.eps) - 1, 0.0
    if not seen(2.0**high):
        return math.inf
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if seen(2.0**middle) else (middle, high)
    return float(2.0**high)


def _of_another_row(x: Tensor) -> Tensor:
    return x.roll(1, 0) if x.dim() and len(x) > 1 else -0.5 * x


def _for_inputs(comparison: Comparison, other: Callable[[Tensor], Tensor]) -> Tensors:
    """The candidate's gradients for other inputs, everything else the same."""
    call = comparison.call
    leaves = {n: laid_as(x, other(x)) for n, x in call.leaves.items() if x.is_floating_point()}
    try:
        return comparison.rerun_candidate(call.with_leaves(leaves))
    except Exception:  # not defined there: the factors of a matrix that is not positive, say
        return {}


def _without_a_row(comparison: Comparison) -> Tensors:
    """The candidate's gradients without the middle row of the batch."""
    rows = comparison.rows
    if rows is None or rows < 2:
        return {}
    return comparison.rerun_candidate(hook=only_rows(torch.arange(rows) != rows // 2))
