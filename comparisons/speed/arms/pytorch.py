"""The arms in PyTorch: nn.Sequential eager and compiled, ours eager in every way."""

from __future__ import annotations

import copy

import torch
from torch import nn

import manualbp
from comparisons.counterparts import autograd_twin
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    COMPILE,
    COMPILE_LOSS,
    COMPILE_MAX,
    EXACT,
    FAST,
    ONE_PASS,
    Arm,
    Problem,
    torch_arm,
)
from comparisons.speed.workloads import COSTS, TF32, TRAINING
from manualbp.fast.gpu import kernels, one_launch

# A sum over many tiles needs the digits of these dtypes. In others FusedLoss runs the model's own
# step, unless the network is one launch of a kernel.
ONE_PASS_DTYPES = ("float32", TF32, "float64")


def eager_arms(problem: Problem) -> dict[str, Arm]:
    """All of them, with equal weights."""
    cost = COSTS[problem.workload.step]
    arms = {
        AUTOGRAD: torch_arm(problem, autograd_twin(problem.model), cost),
        EXACT: torch_arm(problem, problem.model, cost),
        FAST: torch_arm(problem, in_fast_mode(problem.model), cost),
    }
    if one_pass := fused(problem):
        arms[ONE_PASS] = torch_arm(problem, one_pass)
    return arms


def in_fast_mode(model: nn.Sequential) -> nn.Sequential:
    """A copy in fast mode."""
    fast = copy.deepcopy(model)
    manualbp.set_mode("fast", fast)
    return fast


def fused(problem: Problem) -> nn.Module | None:
    """FusedLoss of equal weights; None where it would run the model's own step."""
    workload = problem.workload
    launched = kernels.takes(problem.x) and max(workload.widths) <= one_launch.WIDEST
    if workload.step != TRAINING or not (workload.dtype in ONE_PASS_DTYPES or launched):
        return None
    return manualbp.FusedLoss(copy.deepcopy(problem.model), manualbp.MSELoss())


class Compiler:
    """torch.compile's arms, for one network at a time: earlier ones are forgotten.

    In the batch sweep a network is compiled once, for every batch (``dynamic``), and only together
    with its loss; elsewhere for the one batch.

    Args:
        tuning: whether ``max-autotune`` is an arm too, for the one batch.
    """

    def __init__(self, tuning: bool = False) -> None:
        self._for: object = None
        self._tuning = tuning
        self._cost = self._tuned = COSTS[TRAINING]

    def arms(self, problem: Problem, dynamic: bool) -> dict[str, Arm]:
        """Empty for other steps than training: it knows first derivatives only."""
        workload, ours = problem.workload, problem.model
        if workload.step != TRAINING:
            return {}
        batch = None if dynamic else workload.batch
        key = (workload.widths, workload.activation, workload.dtype, batch)
        if key != self._for:
            torch.compiler.reset()
            self._for = key
            self._cost = torch.compile(COSTS[TRAINING], dynamic=True if dynamic else None)
            self._tuned = torch.compile(COSTS[TRAINING], mode="max-autotune")
        arms = {COMPILE_LOSS: torch_arm(problem, autograd_twin(ours), self._cost)}
        if dynamic:
            return arms
        model = autograd_twin(ours)
        model.compile()
        arms = {COMPILE: torch_arm(problem, model, COSTS[TRAINING]), **arms}
        if self._tuning:
            arms[COMPILE_MAX] = torch_arm(problem, autograd_twin(ours), self._tuned, held=None)
        return arms
