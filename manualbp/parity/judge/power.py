"""What the rule can see on this very pair: standard faults, planted into the candidate's gradients.

A verdict "agree" is worth what it would have refused. So every gradient of the candidate is made
wrong in the ways that gradients are wrong, and judged again by the same yardstick; and the smallest
d is searched for which g * (1 + d) is told from g.

PASS is refused where a fault of ``VISIBLE`` or more of the gradient's rms stays unseen (of 16 eps
of the dtype, where that is more: 12 % in bfloat16), and where a gradient is exactly zero, so that
nothing was exercised. A gradient with the reference's bits is asked for no size: rounding hides
nothing. One whose terms cancel to the rounding of float64, for other inputs as well (a bias before
BatchNorm, the key bias of attention), is zero by nature: its faults are measured by the sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manualbp.parity.arms.runs import Tensors
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.tolerance import ELEMENT_FLOOR, rms, to_double
from manualbp.parity.judge.yardstick import nudged
from manualbp.parity.record import Planted, PowerReport

VISIBLE = 0.01
# The float64 run's rms(g) below this many of float64's eps of its sums: rounding is all that is
# left of it. In the working dtype a gradient may drown in rounding and still be one.
CANCELS = 32.0 * torch.finfo(torch.float64).eps
BISECTIONS = 16


@dataclass(frozen=True)
class Site:
    """One gradient g of the candidate, in float64, and what faults are made of.

    ``stale`` and ``dropped`` are the same gradient for the inputs of another row, and without one
    row of the batch; ``unit`` is the size a fault is measured by.
    """

    name: str
    g: Tensor
    others: tuple[Tensor, ...]
    stale: Tensor | None
    dropped: Tensor | None
    rows: int
    eps: float
    unit: float


Fault = Callable[[Site], Tensor | None]  # None where it cannot be planted


def _transposed(s: Site) -> Tensor | None:
    if s.g.dim() != 2 or 1 in s.g.shape:
        return None
    return s.g.t().reshape(s.g.shape)  # not square: the numbers in the order of the transpose


def _missing(s: Site) -> Tensor:
    return torch.zeros_like(s.g)


def _wrong_mask(s: Site) -> Tensor:
    return s.g.where(s.g > 0, 0.0)  # the mask of a ReLU, taken from delta instead of z


def _swapped(s: Site) -> Tensor | None:
    partners = [other for other in s.others if other.numel() == s.g.numel()]
    return partners[0].reshape(s.g.shape) if partners else None


def _one_element(s: Site) -> Tensor:
    found = s.g.clone().flatten()
    found[found.numel() // 2] += s.unit
    return found.reshape(s.g.shape)


def _reduced_precision(s: Site) -> Tensor:
    """Half of the significand's bits: bfloat16 for float32."""
    bits = round(-math.log2(s.eps)) // 2
    mantissa, exponent = torch.frexp(s.g)
    return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)


def _noise(s: Site) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(s.g.shape, generator=generator, dtype=torch.float64)
    return s.g + math.sqrt(s.eps) * s.unit * noise


FAULTS: dict[str, Fault] = {
    "transposed": _transposed,
    "sign": lambda s: -s.g,
    "x 1.01": lambda s: s.g * 1.01,
    "x N": lambda s: s.g * s.rows,  # a sum for a mean
    "missing": _missing,
    "stale activation": lambda s: s.stale,
    "wrong mask": _wrong_mask,
    "swapped parameters": _swapped,
    "one row dropped": lambda s: s.dropped,
    "one element off": _one_element,
    "reduced precision": _reduced_precision,
    "noise": _noise,
}
SMALL = ("reduced precision", "noise")  # by their nature: planted everywhere, never asked for
# What can be told of a gradient that is zero but for rounding.
BESIDE_SUMS = ("one element off", "noise")


def measure_power(comparison: Comparison) -> PowerReport:
    """Plant every standard fault into every gradient of a ``backward`` comparison."""
    ours = {n: g for n, g in comparison.ours.tensors.items() if n.endswith(".grad")}
    present = {n: to_double(g) for n, g in ours.items() if g is not None and g.isfinite().all()}
    stale, dropped = _for_inputs(comparison, _of_another_row), _dropped(comparison)
    generator = torch.Generator().manual_seed(0)
    elsewhere = _for_inputs(comparison, lambda x: nudged(x, 0.5, generator))
    planted: list[Planted] = []
    smallest: dict[str, float] = {}
    same_bits = {report.name for report in comparison.reports if report.bit_identical}
    wrong = {report.name for report in comparison.reports if not report.agrees}
    missing = [] if present else ["no gradient was compared: nothing asks for one"]
    for name, g in present.items():
        if name in wrong:  # a fault may well make it right
            continue
        size, sums = rms(g), rms(comparison.yardstick.sums_of(name))
        eps = torch.finfo(comparison.dtype(name)).eps
        other = _as_double(elsewhere, name)
        cancels = rms(comparison.yardstick.exact[name]) < CANCELS * sums and (
            other is None or rms(other) < math.sqrt(eps) * sums  # for other inputs as well
        )
        if size == 0 and not cancels:
            missing.append(
                f"{name} is exactly zero, so nothing of its backward was exercised: dead units, "
                "an output it does not reach, or a loss at its minimum; choose other inputs"
            )
            continue
        unit = sums if cancels else size
        partners = tuple(g for n, g in present.items() if n != name)
        rows = comparison.rows or 1
        site = Site(
            name, g, partners, _as_double(stale, name), _as_double(dropped, name),
            rows if rows > 1 else 2, eps, unit,
        )  # fmt: skip
        for fault in BESIDE_SUMS if cancels else FAULTS:
            caught = _caught(comparison, site, fault)
            if caught is None:
                continue
            planted.append(Planted(fault, name, caught[0]))
            large = fault not in SMALL and caught[1] >= max(0.9 * VISIBLE, ELEMENT_FLOOR * eps)
            if large and not caught[0] and name not in same_bits:
                missing.append(
                    f"{fault!r} is not seen in {name}: a change of {caught[1]:.1e} is below the "
                    f"rounding of its sums, which are {sums / unit:.0e} times as large as what is "
                    "left of them; compare in float64, or choose other inputs"
                )
        smallest[name] = _smallest(comparison, site, cancels)
    return PowerReport(tuple(planted), smallest, tuple(missing))


def _caught(comparison: Comparison, site: Site, fault: str) -> tuple[bool, float] | None:
    """Whether a fault is seen, and its size over the unit; None where it changes nothing."""
    wrong = FAULTS[fault](site)
    if wrong is None or wrong.shape != site.g.shape:
        return None
    wrong = wrong.to(comparison.dtype(site.name))
    apart = to_double(wrong) - site.g
    change = float(apart.abs().max()) if fault == "one element off" else rms(apart)
    size = change / site.unit
    if change == 0 or (size < 0.9 * VISIBLE and fault not in SMALL):
        return None  # the mask of a gradient that is positive everywhere, say
    return not comparison.judge_one(site.name, wrong).agrees, size


def _smallest(comparison: Comparison, site: Site, cancels: bool) -> float:
    """The smallest d for which g (1 + d), or g + d s where g cancels, is seen; by bisection."""
    step = comparison.yardstick.sums_of(site.name) if cancels else site.g

    def seen(d: float) -> bool:
        wrong = (site.g + d * step).to(comparison.dtype(site.name))
        return not comparison.judge_one(site.name, wrong).agrees

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
    leaves = {n: other(x) for n, x in call.leaves.items() if x.is_floating_point()}
    args, kwargs = call.replace(leaves)
    return comparison.rerun_candidate(replace(call, args=args, kwargs=kwargs))


def _dropped(comparison: Comparison) -> Tensors:
    """The candidate's gradients without the middle row of the batch."""
    rows = comparison.rows
    if rows is None or rows < 2:
        return {}
    keep = torch.arange(rows) != rows // 2
    return comparison.rerun_candidate(hook=lambda g: g * only(keep, g))


def only(rows: Tensor, like: Tensor) -> Tensor:
    """A mask over the first dimension, to multiply ``like`` with."""
    return rows.to(like.device, like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def _as_double(tensors: Tensors, name: str) -> Tensor | None:
    found = tensors.get(name)
    return None if found is None else to_double(found)
