"""The peers: the same step by other packages, where they are installed.

    JAX                by_jax.py
    scikit-learn       MLPRegressor.partial_fit on the whole batch: one step, its update included
    jet-for-pytorch    derivatives by the input alone (derivatives.py)

All start from the same weights and data, in the same dtype and with the same number of threads.
scikit-learn has only the mean squared error, ReLU and tanh, and no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch

from comparisons.counterparts import linears
from comparisons.speed import memory
from comparisons.speed.arms import by_jax, derivatives
from comparisons.speed.arms.arm import JAX, JET, SKLEARN, Arm, Computed, Problem
from comparisons.speed.workloads import TRAINING

Make = Callable[[Problem], "Arm | None"]
SKLEARN_ACTIVATIONS, SKLEARN_DTYPES = ("relu", "tanh"), ("float32", "float64")
# Learning rates: scikit-learn's step always updates. The second is so large that W - W_new has all
# digits of the gradient.
RATE, LARGE_RATE = 1e-3, 2.0**20


def available(device: torch.device, by_input: bool = False) -> tuple[dict[str, Make], list[str]]:
    """What makes each peer's arms, and notes: which are absent, with the remedy; what differs.

    Args:
        device: where.
        by_input: whether those with nothing but derivatives by the input are wanted.
    """
    found: dict[str, Make] = {}
    notes = []
    for name, prepare, file in (
        (JAX, by_jax.prepare, "peers"),
        *([(JET, _prepare_jet, "peers")] if by_input else []),
        (SKLEARN, _prepare_sklearn, "comparisons"),
    ):
        try:
            found |= prepare(device)
        except ImportError:
            notes.append(f"no {name}: install it with: pip install -r requirements/{file}.txt")
        except RuntimeError as error:
            notes.append(f"no {name}: {error}")
    if SKLEARN in found:
        notes.append(f"{SKLEARN}'s step includes the update of its weights")
    return found, notes


def _prepare_jet(device: torch.device) -> dict[str, Make]:
    """jet-for-pytorch, which imports as ``jet``."""
    if sys.version_info < (3, 12):
        raise RuntimeError("it needs Python 3.12")
    metadata.version(JET)  # or another package of that name is imported
    import jet

    return {JET: partial(derivatives.jet_arm, jet)}


def _prepare_sklearn(device: torch.device) -> dict[str, Make]:
    """scikit-learn, its products with PyTorch's number of threads."""
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits

    if device.type != "cpu":
        raise RuntimeError("it has no GPU")
    threadpool_limits(torch.get_num_threads(), user_api="blas")
    return {SKLEARN: partial(_sklearn_arm, MLPRegressor)}


def _sklearn_arm(regressor: Any, problem: Problem) -> Arm | None:
    """partial_fit on all the data as one batch is one step; None where it has no such step.

    Its gradient is that of sum (u(x) - y)^2 / 2N for N rows of O outputs: ours is that times 2 / O.
    The cost that it reports is half of ours.
    """
    workload = problem.workload
    known = workload.activation in SKLEARN_ACTIVATIONS and workload.dtype in SKLEARN_DTYPES
    if workload.step != TRAINING or not known:
        return None
    x, y = problem.x.numpy(), problem.y.numpy()
    y = y.ravel() if y.shape[1] == 1 else y  # it warns of a column

    def started(rate: float) -> Any:
        """A regressor with the problem's weights."""
        model = regressor(
            hidden_layer_sizes=workload.widths[1:-1], activation=workload.activation, solver="sgd",
            alpha=0, batch_size=workload.batch, learning_rate_init=rate, momentum=0,
            nesterovs_momentum=False, shuffle=False, random_state=0,
        )  # fmt: skip
        model.partial_fit(x, y)  # makes the arrays
        with torch.no_grad():
            for i, layer in enumerate(linears(problem.model)):
                model.coefs_[i][...] = layer.weight.numpy().T
                model.intercepts_[i][...] = layer.bias.numpy()
        return model

    def computed() -> Computed:
        """dC/dw = (w - w_new) / rate."""
        model = started(LARGE_RATE).partial_fit(x, y)
        scale = 2 / (workload.widths[-1] * LARGE_RATE)
        pairs = zip(model.coefs_, model.intercepts_, strict=True)
        updated = [torch.from_numpy(array.T.copy()) for pair in pairs for array in pair]
        before = problem.model.parameters()
        gradients = [(w.detach() - new) * scale for w, new in zip(before, updated, strict=True)]
        return Computed(2 * float(model.loss_), gradients)

    model = started(RATE)

    def step() -> None:
        model.partial_fit(x, y)

    return Arm(step, computed, lambda: memory.traced(step))
