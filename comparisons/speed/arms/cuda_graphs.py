"""CUDA graphs: forward with loss, and backward, each recorded once and replayed as one launch.

``torch.cuda.make_graphed_callables`` takes the step's module, warms it up on a stream of its own
and records it, for autograd's network and for ours alike: what differs is who computes the
gradients. x and y are those of the record, so nothing is copied. A replay writes its gradients
over those of the one before: the step lets go of them first, as every arm does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import manualbp
from comparisons.speed import memory
from comparisons.speed.arms.pytorch import (
    AUTOGRAD_GRAPHS,
    FAST_GRAPHS,
    ONE_PASS_GRAPHS,
    Arm,
    Problem,
    arm,
    fused,
    twin,
)
from comparisons.speed.costs import TRAINING, Cost, training


class Whole(nn.Module):
    """C(model(x), y), which is what is recorded."""

    def __init__(self, model: nn.Module, cost: Cost) -> None:
        super().__init__()
        self.model, self.cost = model, cost

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """C, a scalar."""
        return self.cost(self.model, x, y)


def captured(module: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, int]:
    """The module with its graphs, and the bytes that their memory pool keeps.

    Raises:
        RuntimeError: something in the step cannot be recorded, or memory does not suffice.
    """
    pool = torch.cuda.graph_pool_handle()
    # A record that fails leaves its own stream behind as the current one: this puts ours back.
    with torch.cuda.stream(torch.cuda.current_stream(x.device)):
        graphed = torch.cuda.make_graphed_callables(module, (x, y), pool=pool)
    return graphed, memory.reserved(pool)  # type: ignore[return-value]


def makers(problem: Problem) -> dict[str, Callable[[], Arm]]:
    """Who makes each arm; empty for other steps, since graphs have no second derivatives."""
    if problem.row.step != TRAINING:
        return {}
    fast = copy.deepcopy(problem.model)
    manualbp.set_mode("fast", fast)
    modules: dict[str, nn.Module] = {
        AUTOGRAD_GRAPHS: Whole(twin(problem.model), training),
        FAST_GRAPHS: Whole(fast, training),
    }
    if one_pass := fused(problem):
        modules[ONE_PASS_GRAPHS] = one_pass
    return {name: partial(_arm, problem, module) for name, module in modules.items()}


def _arm(problem: Problem, module: nn.Module) -> Arm:
    graphed, held = captured(module, problem.x, problem.y)
    return arm(problem, graphed, lambda whole, x, y: whole(x, y), held)
