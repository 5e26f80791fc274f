"""Derivatives by the input by nested torch.autograd.grad: the usual way, for any model.

    du_o/dx = grad(sum_n u_no, x),      d2u_o/dx dv_k = grad(sum_n du_o/dv_k, x)

The sums over points are no matter where each row of u depends on its row of x alone. They are not
computed: their gradient is 1 for every point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.maths.order import Order


def derivatives(
    model: Callable[[Tensor], Tensor], x: Tensor, order: Order, directions: Tensor | None
) -> tuple[Tensor, ...]:
    """u (N, O), du (N, O, K) and the second derivatives asked for, with their graph."""
    recorded = torch.is_grad_enabled()
    if torch_internals.forward_mode() or (
        torch_internals.transforms_active() and not x.requires_grad
    ):
        raise RuntimeError(
            "derivatives cannot run inside forward-mode AD or a transform of torch.func (vmap, "
            "jvp, grad by other than x), as autograd.grad cannot; use torch.func.jacrev there"
        )
    if recorded:
        return _derivatives(model, x if x.requires_grad else _leaf(x), order, directions)
    with torch.inference_mode(False), torch.enable_grad():
        found = _derivatives(model, _leaf(x), order, directions)
    return tuple(each.detach() for each in found)


def _derivatives(
    model: Callable[[Tensor], Tensor], x: Tensor, order: Order, directions: Tensor | None
) -> tuple[Tensor, ...]:
    """With x in a graph that is being recorded."""
    u = model(x)
    if not isinstance(u, Tensor) or u.dim() != 2 or len(u) != len(x):
        got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(f"model(x) must be (N, O), one row a point; got {got}")
    columns = [u] if u.shape[1] == 1 else u.unbind(1)
    first = [_along(_by_x(column, x), directions) for column in columns]
    if not order.asked:
        return u, _stacked(first)
    second = [_second(each, x, order, directions) for each in first]
    return u, _stacked(first), _stacked(second)


def _leaf(x: Tensor) -> Tensor:
    """x as the start of a graph of its own."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def _stacked(columns: Sequence[Tensor]) -> Tensor:
    """Those of each output, (N, ...), as (N, O, ...)."""
    return columns[0].unsqueeze(1) if len(columns) == 1 else torch.stack(columns, 1)  # type: ignore[arg-type]


def _second(first: Tensor, x: Tensor, order: Order, directions: Tensor | None) -> Tensor:
    """Of one output, whose du is (N, K): what is asked for, (N, ...)."""
    lines = [first] if first.shape[1] == 1 else first.unbind(1)
    needed = sorted({k for k, _ in order.asked})
    rows = {k: _along(_by_x(lines[k], x), directions) for k in needed}
    terms = [rows[k][:, m] for k, m in order.asked]
    if order.summed:
        return terms[0] if len(terms) == 1 else torch.stack(terms, 1).sum(1)
    return torch.stack(terms, 1).view(len(x), *order.shape)


def _by_x(column: Tensor, x: Tensor) -> Tensor:
    """dcolumn_n/dx_n, (N, I)."""
    if not column.requires_grad:
        return torch.zeros_like(x)
    ones = torch.ones_like(column)
    (found,) = torch.autograd.grad(column, x, ones, create_graph=True, materialize_grads=True)
    return found


def _along(gradient: Tensor, directions: Tensor | None) -> Tensor:
    """The gradient (N, I) along each direction, (N, K)."""
    if directions is None:
        return gradient
    if directions.dim() == 2:
        return gradient @ directions.t()
    return (directions @ gradient[..., None])[..., 0]
