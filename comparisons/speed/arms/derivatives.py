"""Derivatives by the input: ours and PyTorch's other ways, each with loss.backward() behind it.

derivatives           manualbp.derivatives as it is
derivatives, Python   the same without the library in C++, where there is one
torch.func            vmap of jacrev, of jacfwd(jacrev), of jvp(jacrev), point by point
compile, loss         torch.compile of torch.func.grad of grad over the whole batch, and the loss
jet-for-pytorch       collapsed Taylor mode for the Laplacian, Taylor mode along directions
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacrev, jvp, vmap

import manualbp
from comparisons.counterparts import autograd_twin, in_python
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    DERIVATIVES,
    DERIVATIVES_PYTHON,
    TORCH_FUNC,
    Arm,
    Problem,
)
from comparisons.speed.arms.costs import COSTS, Cost, Way, cost_by, directions
from comparisons.speed.arms.pytorch import cost_arm
from comparisons.speed.workloads import INPUT_GRADIENT
from manualbp.fast import native


def eager_arms(problem: Problem) -> dict[str, Arm]:
    """All that compile nothing, with equal weights."""
    twin = partial(autograd_twin, problem.model)
    ours = cost_of(problem, by_hand)
    arms = {
        AUTOGRAD: cost_arm(problem, twin(), COSTS[problem.workload.step]),
        DERIVATIVES: cost_arm(problem, twin(), ours),
    }
    if native.library() is not None:
        arms[DERIVATIVES_PYTHON] = cost_arm(problem, twin(), ours, around=in_python)
    arms[TORCH_FUNC] = cost_arm(problem, twin(), cost_of(problem, by_points))
    return arms


def compiled_arm(problem: Problem) -> Arm:
    """One graph for derivatives and loss; what does not fit into one raises."""
    torch.compiler.reset()
    cost = torch.compile(cost_of(problem, by_batches), fullgraph=True)
    return cost_arm(problem, autograd_twin(problem.model), cost)


def cost_of(problem: Problem, way: Way) -> Cost:
    """The cost of its step, with derivatives that come in this way."""
    return cost_by(problem.workload.step, way, directions(problem.x))


def by_hand(model: nn.Module, x: Tensor, second: Any, lines: Tensor | None) -> Tensor:
    """By ``manualbp.derivatives``."""
    found: tuple[Tensor, ...] = manualbp.derivatives(model, x, second, lines)
    return found[-1]


def by_points(model: nn.Module, x: Tensor, second: str | None, lines: Tensor | None) -> Tensor:
    """By torch.func, as its documentation does it: of one point, then vmap."""

    def u(point: Tensor) -> Tensor:
        return model(point[None])[0]

    def along(point: Tensor, v: Tensor) -> Tensor:
        return jvp(jacrev(u), (point,), (v,))[1] @ v

    if second is None:
        return vmap(jacrev(u))(x)
    if lines is None:
        return vmap(hessian(u))(x).diagonal(dim1=2, dim2=3).sum(2)
    return vmap(vmap(along, (None, 0), 1), (0, None))(x, lines)


def by_batches(model: nn.Module, x: Tensor, second: str | None, lines: Tensor | None) -> Tensor:
    """By torch.func.grad of sums over the batch, which a compiler takes whole."""
    outputs = range(model(x[:1]).shape[1])
    slopes = [grad(lambda x, o=o: model(x)[:, o].sum()) for o in outputs]
    if second is None:
        return torch.stack([slope(x) for slope in slopes], 1)
    along = lines if lines is not None else torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    found = torch.stack(
        [
            torch.stack([grad(lambda x, v=v, s=s: (s(x) @ v).sum())(x) @ v for v in along], 1)
            for s in slopes
        ],
        1,
    )
    return found.sum(2) if second == "laplacian" else found


def jet_arm(jet: Any, problem: Problem) -> Arm | None:
    """By jet-for-pytorch's ``jet``, traced once for the batch; None for first derivatives."""
    if problem.workload.step == INPUT_GRADIENT:
        return None
    model, x = autograd_twin(problem.model), problem.x
    collapsed, single = jet.jet(model, (x,), collapsed=True), jet.jet(model, (x,))

    def way(_: nn.Module, x: Tensor, second: str | None, lines: Tensor | None) -> Tensor:
        zero = torch.zeros_like(x)
        if second == "laplacian":
            axes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
            return collapsed((x, axes[:, None].expand(-1, *x.shape), zero))[2]
        return vmap(lambda v: single((x, v.expand_as(x), zero))[2], out_dims=2)(lines)

    return cost_arm(problem, model, cost_of(problem, way))
