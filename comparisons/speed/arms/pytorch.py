"""The arms in PyTorch: nn.Sequential and ours, eager, compiled and as CUDA graphs.

A CUDA graph records forward with loss, and backward, once each, and replays each as one launch.
``torch.cuda.make_graphed_callables`` takes model and loss as one module, warms it up on a stream of
its own and records it, for autograd's network and for ours alike: only who computes the gradients
differs. x and y are those of the recording, so nothing is copied. A replay writes its gradients
over those of the replay before: the step lets go of them first, as in every arm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

import manualbp
from comparisons.counterparts import WithLoss, autograd_twin, in_fast_mode
from comparisons.speed import memory
from comparisons.speed.arms import arm
from comparisons.speed.arms.arm import Arm, Problem, torch_arm
from comparisons.speed.arms.costs import COSTS, Cost
from comparisons.speed.workloads import TF32, TRAINING
from manualbp.fast.gpu import kernels, one_launch

# A sum over many tiles needs the digits of these dtypes. In others FusedLoss runs the model's own
# step, unless the network is one launch of a kernel.
ONE_PASS_DTYPES = ("float32", TF32, "float64")


def eager_arms(problem: Problem) -> dict[str, Arm]:
    """All of them, with equal weights. Training takes our own loss with our own network."""
    cost, ours = COSTS[problem.workload.step], COSTS[problem.workload.step]
    if problem.workload.step == TRAINING:
        ours = _with_our_loss
    arms = {
        arm.AUTOGRAD: cost_arm(problem, autograd_twin(problem.model), cost),
        arm.EXACT: cost_arm(problem, problem.model, ours),
        arm.FAST: cost_arm(problem, in_fast_mode(problem.model), ours),
    }
    if one_pass := fused(problem):
        arms[arm.FUSED] = module_arm(problem, one_pass)
    if without := fused(problem):
        arms[arm.NO_GRAPH] = torch_arm(problem, without, without.backward)
    return arms


def cost_arm(
    problem: Problem, model: nn.Module, cost: Cost, held: int | None = 0,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Arm:  # fmt: skip
    """C = cost(model, x, y), and PyTorch's backward() from there, both inside ``around()``."""

    def backward(x: Tensor, y: Tensor) -> Tensor:
        with around():
            value = cost(model, x, y)
            torch.autograd.backward(value)
        return value.detach()

    return torch_arm(problem, model, backward, held)


def module_arm(problem: Problem, module: nn.Module, held: int | None = 0) -> Arm:
    """C = module(x, y), and PyTorch's backward() from there."""
    return cost_arm(problem, module, _call, held)


def _call(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return module(x, y)


OUR_LOSS = manualbp.MSELoss()


def _with_our_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return OUR_LOSS(model(x), y)


def fused(problem: Problem) -> manualbp.FusedLoss | None:
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
        arms = {arm.COMPILE_LOSS: cost_arm(problem, autograd_twin(ours), self._cost)}
        if dynamic:
            return arms
        model = autograd_twin(ours)
        model.compile()
        arms = {arm.COMPILE: cost_arm(problem, model, COSTS[TRAINING]), **arms}
        if self._tuning:
            arms[arm.COMPILE_MAX] = cost_arm(problem, autograd_twin(ours), self._tuned, held=None)
        return arms


def captured(module: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, int]:
    """The module with its graphs, and the bytes that their memory pool keeps.

    Raises:
        RuntimeError: something in the step cannot be recorded, or memory does not suffice.
    """
    pool = torch.cuda.graph_pool_handle()
    # A recording that fails leaves its own stream as the current one: this puts ours back.
    with torch.cuda.stream(torch.cuda.current_stream(x.device)):
        graphed = torch.cuda.make_graphed_callables(module, (x, y), pool=pool)
    return graphed, memory.reserved(pool)  # type: ignore[return-value]


def graph_makers(problem: Problem) -> dict[str, Callable[[], Arm]]:
    """What makes each arm; empty for other steps, since graphs have no second derivatives."""
    if problem.workload.step != TRAINING:
        return {}
    modules: dict[str, nn.Module] = {
        arm.AUTOGRAD_GRAPHS: WithLoss(autograd_twin(problem.model), nn.functional.mse_loss),
        arm.FAST_GRAPHS: WithLoss(in_fast_mode(problem.model), OUR_LOSS),
    }
    if one_pass := fused(problem):
        modules[arm.FUSED_GRAPHS] = one_pass
    return {name: partial(_graph_arm, problem, module) for name, module in modules.items()}


def _graph_arm(problem: Problem, module: nn.Module) -> Arm:
    graphed, held = captured(module, problem.x, problem.y)
    return module_arm(problem, graphed, held)
