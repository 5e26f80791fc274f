"""Our arms round no worse than autograd, over all workloads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from comparisons.speed.arms.arm import AUTOGRAD, FAST, FUSED, Problem, problem
from comparisons.speed.arms.pytorch import eager_arms
from comparisons.speed.workloads import BATCH, DEPTH, ROWS, WIDTH, Workload
from manualbp.maths.layers import Linear
from tests.comparisons.speed.arms.equal_gradients import CPU


def off_kinks(given: Problem, wide: nn.Module) -> Problem:
    """The rows on which no ReLU's z is so small that rounding decides on which side of 0 it is."""
    off, h = torch.ones(len(given.x), dtype=torch.bool), given.x.double()
    with torch.no_grad():
        for module in wide.children():
            off &= (h.abs() > 1e-5).all(1) | (not isinstance(module, nn.ReLU))
            h = module(h)
    assert off.sum() > len(off) / 2
    return replace(given, x=given.x[off], y=given.y[off])


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [ROWS, BATCH, DEPTH, WIDTH], ids=["rows", "batch", "depth", "width"]
)
def test_error_against_float64_over_the_workloads(part: Sequence[Workload]) -> None:
    """At most 1.5 times autograd's own, and half an ulp of the size, of every gradient.

    A tensor of few numbers may have almost none by chance: those get 10 times.
    """
    checked = 0
    for row in part:
        if row.dtype != "float32" or row.batch * sum(row.widths) > 4e7 or max(row.widths) > 2048:
            continue
        given = problem(row, 0, CPU)
        wide = copy.deepcopy(given.model).double()
        given = off_kinks(given, wide)
        nn.functional.mse_loss(wide(given.x.double()), given.y.double()).backward()
        arms = eager_arms(given)
        autograd = arms[AUTOGRAD].computed().gradients
        for name in (FAST, FUSED):
            for p, ours, theirs in zip(
                wide.parameters(), arms[name].computed().gradients, autograd, strict=True
            ):
                exact = p.grad
                assert exact is not None
                errors = [float((g.double() - exact).norm()) for g in (ours, theirs)]
                times = 1.5 if exact.numel() >= 8 else 10
                assert errors[0] <= times * errors[1] + 6e-8 * float(exact.norm()), (row, name)
                checked += 1
    assert checked > 20


@pytest.mark.slow
@pytest.mark.usefixtures("in_python")  # the fault is planted there
def test_a_worse_rounding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight gradients with three bits less."""
    right = Linear.backward

    def worse(self: Linear, delta: Any, needs: Any, tape: Any, grads: Any, *how: Any) -> Any:
        below = right(self, delta, needs, tape, grads, *how)
        g = grads[-1]
        if g is not None:
            grads[-1] = g + g.abs() * torch.finfo(g.dtype).eps * 8 * torch.rand_like(g)
        return below

    monkeypatch.setattr(Linear, "backward", worse)
    with pytest.raises(AssertionError, match="Workload"):
        test_error_against_float64_over_the_workloads(WIDTH)
