"""Whether all arms of a workload compute the same: nothing is timed that is wrong.

    distance(g) = max over C and every dC/dw of  |g - g64| / scale
    scale       = |g64|, at least the root mean square of all gradients' elements times sqrt(size)

where g64 is autograd's in float64. An arm agrees where

    distance(arm) <= FACTOR distance(autograd) + ROUNDINGS eps

Autograd's own distance is what rounding does to this step in this dtype. An arm that takes its sums
in another order has another distance of the same size, so it gets a few times as much. The second
term is for steps that autograd happens to round to nothing, such as a float64 one. The scale is no
smaller than it is because a sum that cancels by chance rounds as if it had not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from comparisons.counterparts import autograd_twin
from comparisons.speed.arms.arm import AUTOGRAD, ROWS_AT_ONCE, Arm, Computed, Problem
from comparisons.speed.arms.costs import COSTS
from comparisons.speed.workloads import DTYPES, TF32

FACTOR, ROUNDINGS = 4, 8


def in_float64(problem: Problem) -> Computed:
    """What autograd computes in float64: every cost is a mean over rows, so some rows at a time.

    Two parts at least: with the sums in another order, a float64 row has a distance, too.
    """
    model = autograd_twin(problem.model).double()
    rows = len(problem.x)
    size = min(ROWS_AT_ONCE, max(1, rows // 2))
    total = 0.0
    for start in range(0, rows, size):
        x, y = (each[start : start + size].double() for each in (problem.x, problem.y))
        cost = COSTS[problem.workload.step](model, x, y) * (len(x) / rows)
        torch.autograd.backward(cost)
        total += float(cost.detach())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return Computed(total, gradients)


def distance(found: Computed, exact: Computed) -> float:
    """The largest of all, relative; infinite where a gradient is missing or of another shape."""
    shapes = [[g.shape for g in each.gradients] for each in (found, exact)]
    if shapes[0] != shapes[1]:
        return math.inf
    numbers = sum(g.numel() for g in exact.gradients)
    square = sum(float(g.square().sum()) for g in exact.gradients) / numbers
    relative = [abs(found.cost - exact.cost) / abs(exact.cost)]
    for g, g64 in zip(found.gradients, exact.gradients, strict=True):
        scale = max(float(g64.norm()), math.sqrt(g64.numel() * square))
        relative.append(float((g.to(g64) - g64).norm()) / scale)
    return math.inf if any(map(math.isnan, relative)) else max(relative)


def allowed(own: float, dtype: str) -> float:
    """The largest distance that agrees, where autograd's own is ``own``."""
    eps = 2.0**-10 if dtype == TF32 else torch.finfo(DTYPES[dtype]).eps
    return FACTOR * own + ROUNDINGS * eps


def differing(problem: Problem, arms: Mapping[str, Arm]) -> dict[str, str]:
    """The arms that compute something else than autograd, and how far they are from float64."""
    exact = in_float64(problem)
    own = distance(arms[AUTOGRAD].computed(), exact)
    most = allowed(own, problem.workload.dtype)
    found = {
        name: distance(arm.computed(), exact) for name, arm in arms.items() if name != AUTOGRAD
    }
    return {
        name: f"{name} of {problem.workload.words} is {far:.1e} from float64, autograd {own:.1e}"
        for name, far in found.items()
        if not far <= most
    }
