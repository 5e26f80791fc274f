"""What an arm is, the names of all arms, and the problem that they start from.

autograd               eager nn.Sequential
compile                torch.compile of the model
compile, loss          torch.compile of model and loss in one function
compile, max-autotune  the same with mode="max-autotune", on a GPU
exact                  manualbp.Sequential and manualbp.MSELoss as they are: the bits of autograd
fast                   the same with manualbp.set_mode("fast")
FusedLoss              loss = fused(x, y); loss.backward()
FusedLoss, no graph    loss = fused.backward(x, y): adds every dC/dw to .grad and returns C
..., graphs            autograd, fast and FusedLoss as CUDA graphs, on a GPU (pytorch.py)
derivatives            manualbp.derivatives, and PyTorch's other ways (derivatives.py)
JAX, scikit-learn      the peers (peers.py); JAX, jet: jax.experimental.jet (by_jax.py)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import manualbp
from comparisons.speed import memory
from comparisons.speed.workloads import DTYPES, TF32, Workload

AUTOGRAD, COMPILE, COMPILE_LOSS = "autograd", "compile", "compile, loss"
COMPILE_MAX, AUTOGRAD_GRAPHS = "compile, max-autotune", "autograd, graphs"
EXACT, FAST, FUSED, NO_GRAPH = "exact", "fast", "FusedLoss", "FusedLoss, no graph"
FAST_GRAPHS, FUSED_GRAPHS = "fast, graphs", "FusedLoss, graphs"
DERIVATIVES, DERIVATIVES_PYTHON = "derivatives", "derivatives, Python"
TORCH_FUNC, JET = "torch.func", "jet-for-pytorch"
JAX, JAX_JET, SKLEARN = "JAX", "JAX, jet", "scikit-learn"
COMPILED = (COMPILE, COMPILE_LOSS, COMPILE_MAX)
OURS = (EXACT, FAST, FUSED, NO_GRAPH, FAST_GRAPHS, FUSED_GRAPHS, DERIVATIVES, DERIVATIVES_PYTHON)
ARMS = (AUTOGRAD, AUTOGRAD_GRAPHS, TORCH_FUNC, *COMPILED, *OURS, JET, JAX, JAX_JET, SKLEARN)

# A row is on a kink where a ReLU's z is below this many eps of the layer's z: rounding decides on
# which side of 0 it is.
KINK, ROWS_AT_ONCE = 64, 4096


class Computed(NamedTuple):
    """What a step computes: C, and dC/dw of every parameter, 0 where C does not depend on it."""

    cost: float
    gradients: list[Tensor]


@dataclass(frozen=True)
class Arm:
    """One way to take the step: ``step`` is what is timed."""

    step: Callable[[], object]
    computed: Callable[[], Computed]  # of one step at the weights it started from
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
    model = manualbp.MLP(workload.widths, workload.activation, dtype=dtype)
    x = torch.randn(workload.batch, workload.widths[0], dtype=dtype)
    y = torch.randn(workload.batch, workload.widths[-1], dtype=dtype)
    # Dtypes of fewer digits leave no row off the kinks.
    if workload.dtype != TF32 and dtype in (torch.float32, torch.float64):
        x = off_kinks(model, x)
    return Problem(workload, model.to(device), x.to(device), y.to(device))


@torch.no_grad()
def off_kinks(model: nn.Sequential, x: Tensor) -> Tensor:
    """x with another of its rows in the place of every row that is on a kink.

    Else two right gradients could differ by all that such a row gives a unit.
    """
    if not any(isinstance(f, nn.ReLU) for f in model):
        return x
    off, eps = torch.ones(len(x), dtype=torch.bool), torch.finfo(x.dtype).eps
    for start in range(0, len(x), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        h = x[rows].double()
        for f in model:
            if isinstance(f, nn.Linear):
                h = h @ f.weight.double().t() + f.bias.double()
                continue
            if isinstance(f, nn.ReLU):
                off[rows] &= (h.abs() > KINK * eps * h.square().mean().sqrt()).all(1)
            h = f(h)
    kept = x[off]
    if len(kept):
        x[~off] = kept[torch.arange(len(x) - len(kept)) % len(kept)]
    return x


def torch_arm(
    problem: Problem,
    model: nn.Module,
    backward: Callable[[Tensor, Tensor], Tensor],
    held: int | None = 0,
) -> Arm:
    """An arm in PyTorch: let the old gradients go, forward, backward.

    Args:
        problem: its data.
        model: whose parameters get the gradients.
        backward: adds dC/dw to every .grad, for x and y, and returns C.
        held: bytes that the arm's graphs keep whether a step runs or not; None where unknown.
    """
    x, y = problem.x, problem.y
    parameters = list(model.parameters())

    def step() -> Tensor:
        for p in parameters:  # as an optimizer's zero_grad, which walks through no modules
            p.grad = None
        return backward(x, y)

    def computed() -> Computed:
        cost = float(step())
        # A graph's next step writes over its gradients.
        return Computed(
            cost, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        )

    def peak() -> int | None:
        if held is None:
            return None
        model.zero_grad()
        return held + memory.peak(step, x.device)

    return Arm(step, computed, peak)
