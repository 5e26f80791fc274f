"""The peers: the same step by JAX and by scikit-learn, where they are installed.

    JAX             jax.jit(jax.value_and_grad(cost)), waited for
    scikit-learn    MLPRegressor.partial_fit on the whole batch: one step, its update included

Both start from the same weights and data, in the same dtype and with the same number of threads.
scikit-learn has only the mean squared error, ReLU and tanh, and no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparisons.counterparts import linears
from comparisons.speed import memory
from comparisons.speed.arms.arm import JAX, SKLEARN, Arm, Computed, Problem
from comparisons.speed.workloads import INPUT_GRADIENT, LAPLACIAN, TF32, TRAINING

Make = Callable[[Problem], "Arm | None"]
SKLEARN_ACTIVATIONS, SKLEARN_DTYPES = ("relu", "tanh"), ("float32", "float64")
# Learning rates: scikit-learn's step always updates. The second is so large that W - W_new has all
# digits of the gradient.
RATE, LARGE_RATE = 1e-3, 2.0**20


def available(device: torch.device) -> tuple[dict[str, Make], list[str]]:
    """What makes each peer's arm, and notes: which are absent, with the remedy; what differs."""
    found: dict[str, Make] = {}
    notes = []
    for name, prepare, extra in (
        (JAX, _prepare_jax, "peers"),
        (SKLEARN, _prepare_sklearn, "comparisons"),
    ):
        try:
            found[name] = prepare(device)
        except ImportError:
            notes.append(f'no {name}: install it with: pip install -e ".[{extra}]"')
        except RuntimeError as error:
            notes.append(f"no {name}: {error}")
    if SKLEARN in found:
        notes.append(f"{SKLEARN}'s step includes the update of its weights")
    return found, notes


def _prepare_jax(device: torch.device) -> Make:
    """JAX, with PyTorch's number of threads; RuntimeError where it has no such device."""
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # read for JAX's first array
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave PyTorch its memory
    import jax

    kind = "gpu" if device.type == "cuda" else "cpu"
    jax.config.update("jax_enable_x64", True)  # or float64 becomes float32 without a word
    if kind == "gpu":
        jax.config.update("jax_default_matmul_precision", "highest")  # else float32 is TF32
    try:
        place = jax.devices(kind)[device.index or 0]
    except (RuntimeError, IndexError):
        raise RuntimeError(f"it finds no {kind.upper()} here") from None
    return partial(_jax_arm, place)


def _jax_arm(place: Any, problem: Problem) -> Arm:
    import jax

    tf32 = problem.workload.dtype == TF32
    name = "float32" if tf32 else problem.workload.dtype

    def array(tensor: Tensor) -> Any:
        wide = tensor.detach().cpu().to(torch.float64 if name == "float64" else torch.float32)
        return jax.device_put(jax.numpy.asarray(wide.numpy(), dtype=name), place)

    thetas = [(array(layer.weight), array(layer.bias)) for layer in linears(problem.model)]
    data = (thetas, array(problem.x), array(problem.y))
    cost = partial(_JAX_COSTS[problem.workload.step], problem.workload.activation)

    def rounded(*data: Any) -> Any:
        with jax.default_matmul_precision("tensorfloat32") if tf32 else nullcontext():
            return cost(*data)

    compiled = jax.jit(jax.value_and_grad(rounded))

    def computed() -> Computed:
        value, found = compiled(*data)
        gradients = [np.array(g, dtype=np.float64) for theta in found for g in theta]
        return Computed(float(value), list(map(torch.from_numpy, gradients)))

    def peak() -> int | None:
        stats = compiled.lower(*data).compile().memory_analysis()
        if stats is None:  # not every platform tells
            return None
        return int(stats.temp_size_in_bytes + stats.output_size_in_bytes)

    return Arm(lambda: jax.block_until_ready(compiled(*data)), computed, peak)


def _forward(activation: str, thetas: Any, x: Any) -> Any:
    """o = f(... f(x W_1^T + b_1) ...) W_L^T + b_L."""
    import jax

    f = jax.numpy.tanh if activation == "tanh" else getattr(jax.nn, activation)
    for weight, bias in thetas[:-1]:
        x = f(x @ weight.T + bias)
    weight, bias = thetas[-1]
    return x @ weight.T + bias


def _jax_training(activation: str, thetas: Any, x: Any, y: Any) -> Any:
    return ((_forward(activation, thetas, x) - y) ** 2).mean()


def _jax_input_gradient(activation: str, thetas: Any, x: Any, y: Any) -> Any:
    import jax

    gradient = jax.grad(lambda x: _forward(activation, thetas, x).sum())(x)
    return ((jax.numpy.sqrt((gradient**2).sum(axis=1)) - 1) ** 2).mean()


def _jax_laplacian(activation: str, thetas: Any, x: Any, y: Any) -> Any:
    import jax

    gradient = jax.grad(lambda x: _forward(activation, thetas, x).sum())
    curvature = [
        jax.grad(lambda x, i=i: gradient(x)[:, i].sum())(x)[:, i : i + 1] for i in range(x.shape[1])
    ]
    return ((sum(curvature) - y) ** 2).mean()


_JAX_COSTS = {
    TRAINING: _jax_training,
    INPUT_GRADIENT: _jax_input_gradient,
    LAPLACIAN: _jax_laplacian,
}


def _prepare_sklearn(device: torch.device) -> Make:
    """scikit-learn, its products with PyTorch's number of threads."""
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits

    if device.type != "cpu":
        raise RuntimeError("it has no GPU")
    threadpool_limits(torch.get_num_threads(), user_api="blas")
    return partial(_sklearn_arm, MLPRegressor)


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
