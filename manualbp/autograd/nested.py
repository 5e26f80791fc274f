"""The same derivatives by nested torch.autograd.grad: the usual way, for any model.

    du_o/dx = grad(sum_n u_no, x),      d2u_o/dx dv_k = grad(sum_n du_o/dv_k, x)

The sums over points are no matter where each row of u depends on its row of x alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manualbp.autograd import torch_internals
from manualbp.maths.order import Order


def derivatives(
    model: nn.Module, x: Tensor, order: Order, directions: Tensor | None
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
    with torch.inference_mode(False), torch.enable_grad():
        at = x if x.requires_grad and recorded else _leaf(x)
        u = model(at)
        if not isinstance(u, Tensor) or u.dim() != 2 or len(u) != len(x):
            got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
            raise ValueError(f"model(x) must be (N, O), one row a point; got {got}")
        first = torch.stack([_along(_by_x(column, at), directions) for column in u.unbind(1)], 1)
        found = [u, first]
        if order.asked:
            columns = [_second(f, at, order, directions) for f in first.unbind(1)]
            found.append(torch.stack(columns, 1))
    return tuple(found) if recorded else tuple(t.detach() for t in found)


def _leaf(x: Tensor) -> Tensor:
    """x as the start of a graph of its own."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def _second(first: Tensor, x: Tensor, order: Order, directions: Tensor | None) -> Tensor:
    """Of one output, whose du is (N, K): what is asked for, (N, ...)."""
    needed = {k for k, _ in order.asked}
    rows = {k: _along(_by_x(first[:, k], x), directions) for k in sorted(needed)}
    found = torch.stack([rows[k][:, m] for k, m in order.asked], 1)
    return found.sum(1) if order.summed else found.view(len(x), *order.shape)


def _by_x(column: Tensor, x: Tensor) -> Tensor:
    """dcolumn_n/dx_n, (N, I)."""
    if not column.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(column.sum(), x, create_graph=True, materialize_grads=True)
    return found


def _along(gradient: Tensor, directions: Tensor | None) -> Tensor:
    """The gradient (N, I) along each direction, (N, K)."""
    if directions is None:
        return gradient
    if directions.dim() == 2:
        return gradient @ directions.t()
    return (directions @ gradient[..., None])[..., 0]
