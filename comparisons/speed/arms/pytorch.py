"""Who takes the step: nn.Sequential under autograd, as it is and compiled, and ours.

autograd               eager nn.Sequential
compile                torch.compile of the model
compile, loss          torch.compile of model and loss in one function
compile, max-autotune  the same with mode="max-autotune", on a GPU: its kernels tried out, in graphs
exact                  manualbp.Sequential as it is: the bits of autograd
fast                   the same with manualbp.set_mode("fast")
one pass               manualbp.FusedLoss: forward, loss and backward over tiles of rows
..., graphs            autograd, fast and one pass as CUDA graphs, on a GPU (graphs.py)
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import manualbp
from comparisons.speed import memory
from comparisons.speed.costs import STEPS, TRAINING, Cost
from comparisons.speed.dtypes import DTYPES, TF32
from comparisons.speed.workloads import Row
from manualbp import kernels, narrow

AUTOGRAD, COMPILE, COMPILE_LOSS = "autograd", "compile", "compile, loss"
COMPILE_MAX, AUTOGRAD_GRAPHS = "compile, max-autotune", "autograd, graphs"
EXACT, FAST, ONE_PASS = "exact", "fast", "one pass"
FAST_GRAPHS, ONE_PASS_GRAPHS = "fast, graphs", "one pass, graphs"
JAX, SKLEARN = "JAX", "scikit-learn"
COMPILED = (COMPILE, COMPILE_LOSS, COMPILE_MAX)
OURS = (EXACT, FAST, ONE_PASS, FAST_GRAPHS, ONE_PASS_GRAPHS)
ARMS = (AUTOGRAD, AUTOGRAD_GRAPHS, *COMPILED, *OURS, JAX, SKLEARN)
# A sum over many tiles needs their digits: FusedLoss runs the model's own step in others, but for
# networks that are one launch of a kernel.
ONE_PASS_DTYPES = ("float32", TF32, "float64")


@dataclass(frozen=True)
class Arm:
    """One way to take the step: ``step`` is what is timed."""

    step: Callable[[], object]
    gradients: Callable[[], list[Tensor]]  # of one step at the weights it started from
    peak: Callable[[], int | None]  # bytes that one step takes beside weights and data


@dataclass(frozen=True)
class Problem:
    """The weights and the data that all arms start from."""

    row: Row
    model: nn.Sequential
    x: Tensor
    y: Tensor


def problem(row: Row, seed: int, device: torch.device) -> Problem:
    """The same numbers for the same seed, on every device."""
    torch.manual_seed(seed)
    dtype = DTYPES[row.dtype]
    model = manualbp.MLP(row.widths, row.activation, dtype=dtype).to(device)
    x = torch.randn(row.batch, row.widths[0], dtype=dtype)
    y = torch.randn(row.batch, row.widths[-1], dtype=dtype)
    return Problem(row, model, x.to(device), y.to(device))


def torch_arms(problem: Problem) -> dict[str, Arm]:
    """The step on nn.Sequential, and on ours in every way there is, with equal weights."""
    ours, cost = problem.model, STEPS[problem.row.step]
    fast, theirs = copy.deepcopy(ours), twin(ours)
    manualbp.set_mode("fast", fast)
    found = {
        AUTOGRAD: arm(problem, theirs, cost),
        EXACT: arm(problem, ours, cost),
        FAST: arm(problem, fast, cost),
    }
    if one_pass := fused(problem):
        found[ONE_PASS] = arm(problem, one_pass, lambda whole, x, y: whole(x, y))
    return found


def fused(problem: Problem) -> nn.Module | None:
    """FusedLoss of equal weights; None where it would run the model's own step."""
    row = problem.row
    launched = kernels.takes(problem.x) and max(row.widths) <= narrow.WIDEST
    if row.step != TRAINING or not (row.dtype in ONE_PASS_DTYPES or launched):
        return None
    return manualbp.FusedLoss(copy.deepcopy(problem.model), manualbp.MSELoss())


class Compiler:
    """torch.compile's arms; what it compiled for one network is forgotten with the next.

    In the batch sweep a network is compiled once, for every batch (``dynamic``), and only together
    with its loss; elsewhere for the one batch.

    Args:
        tuning: whether ``max-autotune`` is an arm, too, for the one batch.
    """

    def __init__(self, tuning: bool = False) -> None:
        self._for: object = None
        self._tuning = tuning
        self._cost = self._tuned = STEPS[TRAINING]

    def missing(self, device: torch.device) -> str | None:
        """Why it cannot be used there; None when it can."""
        # In this process: its workers would take processor time beside the clock.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own imports warn of PyTorch's own doing
                torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
        except Exception as error:  # whatever a missing compiler raises, it has no common class
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            needs = "Triton" if device.type == "cuda" else "a C++ compiler, such as g++"
            return f"no torch.compile: it needs {needs} ({reason})"
        return None

    def arms(self, problem: Problem, dynamic: bool) -> dict[str, Arm]:
        """Empty where it has no such step: it knows first derivatives only."""
        row, ours = problem.row, problem.model
        if row.step != TRAINING:
            return {}
        key = (row.widths, row.activation, row.dtype, None if dynamic else row.batch)
        if key != self._for:
            torch.compiler.reset()
            self._for = key
            self._cost = torch.compile(STEPS[TRAINING], dynamic=True if dynamic else None)
            self._tuned = torch.compile(STEPS[TRAINING], mode="max-autotune")
        found = {COMPILE_LOSS: arm(problem, twin(ours), self._cost)}
        if dynamic:
            return found
        model = twin(ours)
        model.compile()
        found = {COMPILE: arm(problem, model, STEPS[TRAINING]), **found}
        if self._tuning:
            found[COMPILE_MAX] = arm(problem, twin(ours), self._tuned, held=None)
        return found


def twin(model: nn.Sequential) -> nn.Sequential:
    """PyTorch's own, with equal weights."""
    return nn.Sequential(*copy.deepcopy(list(model)))


def arm(problem: Problem, model: nn.Module, cost: Cost, held: int | None = 0) -> Arm:
    """Gradients let go of, forward, backward.

    ``held`` are bytes that its graphs keep whether a step runs or not; None where nobody tells.
    """
    x, y = problem.x, problem.y
    parameters = list(model.parameters())

    def step() -> None:
        for p in parameters:  # as an optimizer's zero_grad, which walks through no modules
            p.grad = None
        cost(model, x, y).backward()  # type: ignore[no-untyped-call]

    def gradients() -> list[Tensor]:
        step()
        # Of derivatives only: the last bias has none. A graph's next step writes over its own.
        return [p.grad.clone() for p in parameters if p.grad is not None]

    def peak() -> int | None:
        if held is None:
            return None
        model.zero_grad()
        return held + memory.peak(step, x.device)

    return Arm(step, gradients, peak)
