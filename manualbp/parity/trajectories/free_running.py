"""The candidate's training by itself, held against the envelope of the reference's twins.

At its end, histograms of both arms' gradients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from manualbp.parity.arms.forward import LOSS, Tensors
from manualbp.parity.record import over
from manualbp.parity.training_record import First, Histogram, Trajectory
from manualbp.parity.trajectories.envelope import Array, PackedStep, worst_first

BINS = 30  # of a histogram


class Drift:
    """How far the candidate is from the reference after a step.

    Args:
        ours: the candidate's tensors.
        theirs: the reference's.
        step: the reference's, packed.
        low: the distance of the nearest twin, for each packed tensor.
        limit: how far the candidate may be.
    """

    def __init__(
        self, ours: Tensors, theirs: Tensors, step: PackedStep, low: Array, limit: Array
    ) -> None:
        self._ours, self._theirs, self._step = ours, theirs, step
        self._low, self._limit = low, limit
        values = step.pack(ours)
        self._apart, self._same_bits = step.distance(values), step.same_bits(values)
        self._there = np.array([ours.get(name) is not None for name in step.names])
        self._reasons = _not_comparable(ours, theirs, step, values)

    @property
    def bit_identical(self) -> bool:
        """Every bit of what both arms have is the same, and nothing differs before numbers do."""
        return not self._reasons and bool(self._same_bits[self._there].all())

    def draw(self, record: Trajectory, number: int, envelope: bool) -> None:
        """Add the step to the record's curves, with the ``envelope`` where there are twins."""
        for arm, tensors in (("candidate", self._ours), ("reference", self._theirs)):
            loss = tensors.get(LOSS)
            record.draw(f"loss/{arm}", number, math.nan if loss is None else float(loss))
        for i, name in enumerate(self._step.names):
            apart, limit = float(self._apart[i]), float(self._limit[i])
            if self._there[i]:
                record.draw(f"drift/{name}", number, apart)
            if self._there[i] and envelope:
                record.draw(f"share/{name}", number, over(apart, limit))
            if envelope:
                record.draw(f"low/{name}", number, float(self._low[i]))
                record.draw(f"high/{name}", number, limit)

    def outside(self, number: int, exact: bool) -> First | None:
        """What is outside the envelope, or with ``exact`` has other bits; None where nothing is."""
        names, reasons = self._step.names, dict(self._reasons)
        if exact:
            other = self._there & ~self._same_bits
            reasons |= {n: "other bits" for n, differs in zip(names, other, strict=True)
                        if differs and n not in reasons}  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing may be allowed
            beyond = self._there & (self._apart > self._limit)
            shares = np.where(beyond, self._apart / self._limit, 0.0)
        far = [n for n in worst_first(names, shares) if n not in reasons]
        if not reasons and not far:
            return None
        words = [f"{name}: {reason}" for name, reason in reasons.items()]
        for i in map(names.index, far):
            words.append(
                f"{names[i]}: rms distance {self._apart[i]:.2e}, allowed {self._limit[i]:.2e}, "
                f"the nearest twin {self._low[i]:.2e}"
            )
        return First(number, (*reasons, *far), shortened(words))


def shortened(words: list[str], most: int = 2) -> str:
    """The first reasons, and how many more there are."""
    rest = [f"and {len(words) - most} more"] if len(words) > most else []
    return "; ".join(words[:most] + rest)


def gradient_histograms(ours: Tensors, theirs: Tensors) -> dict[str, Histogram]:
    """Both arms' gradients and their differences, by the tags of a Trajectory."""
    found = {}
    for name in (n for n in theirs if n.endswith(".grad")):
        c, r = ours.get(name), theirs[name]
        if c is None or r is None or c.shape != r.shape:
            continue
        parameter = name.removesuffix(".grad")
        mine, other = (t.double().cpu().numpy().ravel() for t in (c, r))
        found[f"gradients/candidate/{parameter}"] = histogram(mine)
        found[f"gradients/reference/{parameter}"] = histogram(other)
        found[f"differences/{parameter}"] = histogram(mine - other)
    return found


def histogram(values: NDArray[np.float64]) -> Histogram:
    """The finite values in ``BINS`` bins."""
    finite = values[np.isfinite(values)]
    top = np.abs(finite).max(initial=0.0)
    margin, limits = BINS * np.spacing(top), None
    if top and np.ptp(finite) < margin:  # numbers so near each other have no bins between them
        limits = float(finite.min() - margin), float(finite.max() + margin)
    counts, edges = np.histogram(finite, bins=BINS, range=limits)
    return Histogram(tuple(int(c) for c in counts), tuple(float(e) for e in edges))


def _not_comparable(
    ours: Tensors, theirs: Tensors, step: PackedStep, values: Array
) -> dict[str, str]:
    """What differs before any number does, by name. One arm may have buffers or states alone."""
    found: dict[str, str] = {}
    for name in [*theirs, *(n for n in ours if n not in theirs)]:
        c, r = ours.get(name), theirs.get(name)
        if c is None and r is None:
            continue
        if c is None or r is None:
            if name.endswith(".grad"):
                arm, other = ("candidate", "reference") if c is None else ("reference", "candidate")
                found[name] = f"missing in the {arm}, there in the {other}"
        elif c.shape != r.shape:
            found[name] = f"shape {tuple(c.shape)}, expected {tuple(r.shape)}"
        elif c.dtype != r.dtype:
            found[name] = f"dtype {c.dtype}, expected {r.dtype}"
    counts = step.not_finite(values) - step.not_finite(step.values)
    for name, count in zip(step.names, counts, strict=True):
        if count and ours.get(name) is not None and name not in found:
            found[name] = f"NaN or infinity: {count} more in the candidate than in the reference"
    return found
