"""The same step by JAX: jax.jit(jax.value_and_grad(cost)), waited for.

JAX         derivatives by x are jax.grad's, nested
JAX, jet    second ones by jax.experimental.jet: x + t v goes up through the layers
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparisons.counterparts import linears
from comparisons.speed.arms.arm import JAX, JAX_JET, Arm, Computed, Problem
from comparisons.speed.arms.costs import directions
from comparisons.speed.workloads import DIRECTIONS, INPUT_GRADIENT, LAPLACIAN, TF32, TRAINING


def prepare(device: torch.device) -> dict[str, Callable[[Problem], Arm | None]]:
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
    return {JAX: partial(_arm, place, NESTED), JAX_JET: partial(_arm, place, TAYLOR)}


def _arm(place: Any, costs: Mapping[str, Any], problem: Problem) -> Arm | None:
    """None where there is no such cost."""
    import jax

    if problem.workload.step not in costs:
        return None
    tf32 = problem.workload.dtype == TF32
    name = "float32" if tf32 else problem.workload.dtype

    def array(tensor: Tensor) -> Any:
        wide = tensor.detach().cpu().to(torch.float64 if name == "float64" else torch.float32)
        return jax.device_put(jax.numpy.asarray(wide.numpy(), dtype=name), place)

    thetas = [(array(layer.weight), array(layer.bias)) for layer in linears(problem.model)]
    data = (thetas, array(problem.x), array(problem.y), array(directions(problem.x)))

    def cost(thetas: Any, x: Any, y: Any, lines: Any) -> Any:
        u = partial(_forward, problem.workload.activation, thetas)
        with jax.default_matmul_precision("tensorfloat32") if tf32 else nullcontext():
            return costs[problem.workload.step](u, x, y, lines)

    compiled = jax.jit(jax.value_and_grad(cost))

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

    exact = {"tanh": jax.numpy.tanh, "gelu": partial(jax.nn.gelu, approximate=False)}
    f = exact.get(activation) or getattr(jax.nn, activation)
    for weight, bias in thetas[:-1]:
        x = f(x @ weight.T + bias)
    weight, bias = thetas[-1]
    return x @ weight.T + bias


def _training(u: Any, x: Any, y: Any, lines: Any) -> Any:
    return ((u(x) - y) ** 2).mean()


def _input_gradient(u: Any, x: Any, y: Any, lines: Any) -> Any:
    import jax

    gradients = [jax.grad(partial(_sum_of, u, o))(x) for o in range(y.shape[1])]
    squares = (jax.numpy.stack(gradients) ** 2).sum(axis=-1)
    return ((jax.numpy.sqrt(squares) - 1) ** 2).mean()


def _laplacian(u: Any, x: Any, y: Any, lines: Any) -> Any:
    import jax

    def of(o: int) -> Any:
        slope = jax.grad(partial(_sum_of, u, o))
        return sum(
            jax.grad(lambda x, i=i: slope(x)[:, i].sum())(x)[:, i] for i in range(x.shape[1])
        )

    found = jax.numpy.stack([of(o) for o in range(y.shape[1])], axis=1)
    return ((found - y) ** 2).mean()


def _directions(u: Any, x: Any, y: Any, lines: Any) -> Any:
    import jax

    def along(o: int, v: Any) -> Any:
        slope = jax.grad(partial(_sum_of, u, o))
        return jax.grad(lambda x: (slope(x) @ v).sum())(x) @ v

    each = [jax.vmap(partial(along, o))(lines) for o in range(y.shape[1])]
    return ((jax.numpy.stack(each, axis=2) - y) ** 2).mean()


def _sum_of(u: Any, o: int, x: Any) -> Any:
    return u(x)[:, o].sum()


def _laplacian_by_jet(u: Any, x: Any, y: Any, lines: Any) -> Any:
    import jax

    axes = jax.numpy.eye(x.shape[1], dtype=x.dtype)
    return ((_by_jet(u, x, axes).sum(axis=0) - y) ** 2).mean()


def _directions_by_jet(u: Any, x: Any, y: Any, lines: Any) -> Any:
    return ((_by_jet(u, x, lines) - y) ** 2).mean()


def _by_jet(u: Any, x: Any, lines: Any) -> Any:
    """d2u/dv_k^2 (K, N, O), of all lines at once."""
    import jax
    from jax.experimental.jet import jet

    def along(v: Any) -> Any:
        series = (jax.numpy.broadcast_to(v, x.shape), jax.numpy.zeros_like(x))
        return jet(u, (x,), (series,))[1][1]

    return jax.vmap(along)(lines)


# u, x (N, I), y (N, O), lines (K, I): C.
NESTED = {
    TRAINING: _training,
    INPUT_GRADIENT: _input_gradient,
    LAPLACIAN: _laplacian,
    DIRECTIONS: _directions,
}
TAYLOR = {LAPLACIAN: _laplacian_by_jet, DIRECTIONS: _directions_by_jet}
