"""CUDA graphs: forward with loss, and backward, each recorded once and replayed as one launch.

``torch.cuda.make_graphed_callables`` takes model and loss as one module, warms it up on a stream of
its own and records it, for autograd's network and for ours alike: only who computes the gradients
differs. x and y are those of the recording, so nothing is copied. A replay writes its gradients
over those of the replay before: the step lets go of them first, as in every arm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from comparisons.counterparts import WithLoss, autograd_twin
from comparisons.speed import memory
from comparisons.speed.arms.arm import (
    AUTOGRAD_GRAPHS,
    FAST_GRAPHS,
    ONE_PASS_GRAPHS,
    Arm,
    Problem,
    torch_arm,
)
from comparisons.speed.arms.pytorch import fused, in_fast_mode
from comparisons.speed.workloads import TRAINING


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


def makers(problem: Problem) -> dict[str, Callable[[], Arm]]:
    """What makes each arm; empty for other steps, since graphs have no second derivatives."""
    if problem.workload.step != TRAINING:
        return {}
    modules: dict[str, nn.Module] = {
        AUTOGRAD_GRAPHS: WithLoss(autograd_twin(problem.model), nn.functional.mse_loss),
        FAST_GRAPHS: WithLoss(in_fast_mode(problem.model), nn.functional.mse_loss),
    }
    if one_pass := fused(problem):
        modules[ONE_PASS_GRAPHS] = one_pass
    return {name: partial(_graph_arm, problem, module) for name, module in modules.items()}


def _graph_arm(problem: Problem, module: nn.Module) -> Arm:
    graphed, held = captured(module, problem.x, problem.y)
    return torch_arm(problem, graphed, held=held)
