"""What an arm is, the names of all arms, and the problem that they start from.

autograd               eager nn.Sequential
compile                torch.compile of the model
compile, loss          torch.compile of model and loss in one function
compile, max-autotune  the same with mode="max-autotune", on a GPU: kernels tried out, and graphs
exact                  manualbp.Sequential as it is: the bits of autograd
fast                   the same with manualbp.set_mode("fast")
one pass               manualbp.FusedLoss: forward, loss and backward over tiles of rows
..., graphs            autograd, fast and one pass as CUDA graphs, on a GPU (pytorch.py)
JAX, scikit-learn      the peers (peers.py)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import manualbp
from comparisons.speed import memory
from comparisons.speed.workloads import DTYPES, Cost, Workload

AUTOGRAD, COMPILE, COMPILE_LOSS = "autograd", "compile", "compile, loss"
COMPILE_MAX, AUTOGRAD_GRAPHS = "compile, max-autotune", "autograd, graphs"
EXACT, FAST, ONE_PASS = "exact", "fast", "one pass"
FAST_GRAPHS, ONE_PASS_GRAPHS = "fast, graphs", "one pass, graphs"
JAX, SKLEARN = "JAX", "scikit-learn"
COMPILED = (COMPILE, COMPILE_LOSS, COMPILE_MAX)
OURS = (EXACT, FAST, ONE_PASS, FAST_GRAPHS, ONE_PASS_GRAPHS)
ARMS = (AUTOGRAD, AUTOGRAD_GRAPHS, *COMPILED, *OURS, JAX, SKLEARN)


@dataclass(frozen=True)
class Arm:
    """One way to take the step: ``step`` is what is timed."""

    step: Callable[[], object]
    gradients: Callable[[], list[Tensor]]  # of one step at the weights it started from
    peak: Callable[[], int | None]  # bytes that one step takes beside weights and data


@dataclass(frozen=True)
class Problem:
    """The weights and the data that all arms start from."""

    workload: Workload
    model: nn.Sequential
    x: Tensor
    y: Tensor


def problem(workload: Workload, seed: int, device: torch.device) -> Problem:
    """The same numbers for the same seed, on every device."""
    torch.manual_seed(seed)
    dtype = DTYPES[workload.dtype]
    model = manualbp.MLP(workload.widths, workload.activation, dtype=dtype).to(device)
    x = torch.randn(workload.batch, workload.widths[0], dtype=dtype)
    y = torch.randn(workload.batch, workload.widths[-1], dtype=dtype)
    return Problem(workload, model, x.to(device), y.to(device))


def torch_arm(
    problem: Problem, model: nn.Module, cost: Cost | None = None, held: int | None = 0
) -> Arm:
    """An arm in PyTorch: let the old gradients go, forward, backward.

    Args:
        problem: its data.
        model: who takes the step.
        cost: C of model, x and y; None where the model returns C itself.
        held: bytes that the arm's graphs keep whether a step runs or not; None where unknown.
    """
    x, y = problem.x, problem.y
    parameters = list(model.parameters())
    cost_of = partial(cost, model) if cost else model

    def step() -> None:
        for p in parameters:  # as an optimizer's zero_grad, which walks through no modules
            p.grad = None
        cost_of(x, y).backward()

    def gradients() -> list[Tensor]:
        step()
        # Costs of derivatives give the last bias none. A graph's next step writes over its own.
        return [p.grad.clone() for p in parameters if p.grad is not None]

    def peak() -> int | None:
        if held is None:
            return None
        model.zero_grad()
        return held + memory.peak(step, x.device)

    return Arm(step, gradients, peak)
