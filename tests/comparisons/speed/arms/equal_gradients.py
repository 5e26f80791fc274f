"""The problem of a test, and which arms have other gradients than autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from comparisons.speed.arms.arm import AUTOGRAD, Arm, Problem, problem
from comparisons.speed.workloads import Workload

CPU = torch.device("cpu")


def of(step: str, widths: tuple[int, ...], batch: int, f: str, dtype: str = "float64") -> Problem:
    return problem(Workload(step, widths, batch, f, dtype), 0, CPU)


def differing(arms: dict[str, Arm], tolerance: float) -> list[str]:
    """The arms with a gradient that is off by more than ``tolerance`` of its largest element.

    C counts as one of them. The last bias is in no derivative with respect to x: there all have 0.
    """
    expected = numbers(arms[AUTOGRAD])
    assert all(g.abs().max() > 0 for g in expected[:-1])
    return [name for name, arm in arms.items() if not close(numbers(arm), expected, tolerance)]


def numbers(arm: Arm) -> list[Tensor]:
    cost, gradients = arm.computed()
    return [torch.tensor(cost), *gradients]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    pairs = list(zip(found, expected, strict=False))
    return len(found) == len(expected) and all(
        (a - b).abs().max() <= tolerance * b.abs().max() for a, b in pairs
    )
