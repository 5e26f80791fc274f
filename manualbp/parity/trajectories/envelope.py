r"""How far two correct trainings drift apart, known from twins of the reference.

Any two correct implementations round differently, and a training makes the difference grow. How
much depends on the training, so it is measured: K twins of the reference start with every weight
moved by one ulp, and round a little differently at each step. For one quantity q (the loss, a
gradient, a parameter, a buffer, a tensor of the optimizer) and the reference's own q:

    d_k(t) = rms(q of twin k - q)         at step t
    D_k(t) = max of d_k over steps 1...t
    E(t) = max_k D_k(t)                   M(t) = median_k D_k(t)
    floor(t) = FLOOR * eps * rms(q)       eps of q's dtype; nothing for whole numbers

    limit(t) = FACTOR * E * max(1, E / max(M, floor)) + floor

The candidate is inside while its own rms distance is within the limit. E / M, the spread of the
twins on a logarithmic scale, says how much further one more draw may lie: 1 to 3 where errors grow
smoothly, more where a single unit that switches over decides. The floor is for what no twin
changes. No number is set by hand for a network, a dtype or a length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manualbp.parity.arms.forward import Tensors

Array = NDArray[np.float64]
# How much further than the farthest twin a correct candidate may be: it is one more draw.
FACTOR = 2.0
# What rounding may do to a tensor that no twin moved, in eps.
FLOOR = 2.0


class PackedStep:
    """The reference's tensors of a step as one float64 vector, ``values``.

    Packed in the same way, another arm is one subtraction away.
    """

    def __init__(self, reference: Tensors) -> None:
        present = {n: t for n, t in reference.items() if t is not None and t.numel()}
        self.names = tuple(present)
        self.sizes = np.array([t.numel() for t in present.values()])
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.intp)
        self.values = self.pack(reference)
        # Whole numbers are not rounded: only what the twins do is allowed.
        finfo = [torch.finfo(t.dtype) if t.is_floating_point() else None for t in present.values()]
        self._eps = np.array([info.eps if info else 0.0 for info in finfo])
        self._smallest = np.array([info.smallest_normal if info else 0.0 for info in finfo])
        # Divided by the largest of its tensor, so that no square vanishes or overflows.
        largest = np.maximum.reduceat(np.abs(self.values), self._starts)
        self._scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        self.rms = self._rms(np.where(np.isfinite(self.values), self.values, 0.0))

    def pack(self, tensors: Tensors) -> Array:
        """One float64 vector; NaN for what is missing or has another number of elements."""
        parts = []
        for name, size in zip(self.names, self.sizes, strict=True):
            tensor = tensors.get(name)
            if tensor is None or tensor.numel() != size:
                tensor = torch.full((int(size),), torch.nan)
            parts.append(tensor.reshape(-1).double())
        return torch.cat(parts).cpu().numpy()

    def floor(self) -> Array:
        """FLOOR * eps * rms(q), never below the step of the denormals; 0 for whole numbers."""
        return FLOOR * self._eps * np.maximum(self.rms, self._smallest)

    def distance(self, other: Array) -> Array:
        """rms(q_other - q) for each tensor; infinity where a number of one side is not finite."""
        with np.errstate(invalid="ignore"):
            apart = self._rms(np.where(_differ(self.values, other), other - self.values, 0.0))
        return np.where(np.isnan(apart), np.inf, apart)

    def same_bits(self, other: Array) -> NDArray[np.bool_]:
        """For each tensor, whether every bit is the same (-0.0 differs from 0.0)."""
        return ~np.logical_or.reduceat(_differ(self.values, other), self._starts)

    def not_finite(self, values: Array) -> NDArray[np.int64]:
        """For each tensor, how many of its numbers are NaN or infinite."""
        return np.add.reduceat(~np.isfinite(values), self._starts, dtype=np.int64)

    def _rms(self, values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values / np.repeat(self._scale, self.sizes)
            mean = np.add.reduceat(scaled * scaled, self._starts) / self.sizes
            return self._scale * np.sqrt(mean)


class Envelope:
    """D_k of every quantity, and the limits that follow from it."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._farthest = np.zeros((0, 0))

    def update(self, step: PackedStep, distances: Array) -> tuple[Array, Array]:
        """Take in one step's d_k, shape (K, tensors); the nearest twin and the limit of each.

        With no twin there is no limit: infinity.
        """
        if not len(distances):
            return np.zeros(len(step.names)), np.full(len(step.names), np.inf)
        self._farthest = np.maximum(self._aligned(step.names, len(distances)), distances)
        return self._farthest.min(0), limits(self._farthest, step.floor())

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores, for ``load``."""
        return {"names": list(self._names), "farthest": torch.from_numpy(self._farthest.copy())}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        self._names, self._farthest = tuple(state["names"]), state["farthest"].numpy().copy()

    def _aligned(self, names: tuple[str, ...], twins: int) -> Array:
        """D_k so far for these tensors and twins; 0 for one that was not there before."""
        if names == self._names and twins == len(self._farthest):
            return self._farthest
        before = {n: self._farthest[:, i] for i, n in enumerate(self._names)}
        found = np.zeros((twins, len(names)))
        for i, name in enumerate(names):
            if name in before:
                found[: len(before[name]), i] = before[name]
        self._names = names
        return found


def limits(farthest: Array, floor: Array) -> Array:
    """FACTOR * E * max(1, E / max(M, floor)) + floor, for D_k of shape (K, ...)."""
    most, middle = farthest.max(0), np.median(farthest, axis=0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        usual = np.maximum(middle, floor)
        # Whole numbers that most twins do not move have no floor, and no spread to speak of.
        spread = np.maximum(1.0, np.where(usual > 0, most / usual, 1.0))
        found = FACTOR * most * spread + floor
    return np.where(np.isnan(found), np.inf, found)


def worst_first(names: tuple[str, ...], share: Array) -> list[str]:
    """The names whose share of the limit is above 1, the largest share first."""
    order = np.argsort(-share, kind="stable")
    return [names[i] for i in order if share[i] > 1]


def _differ(a: Array, b: Array) -> NDArray[np.bool_]:
    return a.view(np.int64) != b.view(np.int64)
