"""derivatives(model, x): u, du/dx and second derivatives by hand, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, overload

from torch import Tensor, nn

from manualbp.autograd import nested
from manualbp.conversion.kept_stages import graph_is_faster, run_guarded, stages_or_reason
from manualbp.conversion.read_stages import Reason
from manualbp.maths.order import Order, Pair, Second, order_of
from manualbp.modules import by_input

SECOND = ("laplacian", "diagonal", "hessian")


@overload
def derivatives(
    model: nn.Module, x: Tensor, second: None = None, directions: Tensor | None = None
) -> tuple[Tensor, Tensor]: ...


@overload
def derivatives(
    model: nn.Module, x: Tensor,
    second: Literal["laplacian", "diagonal", "hessian"] | Sequence[Pair],
    directions: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...  # fmt: skip


def derivatives(
    model: nn.Module, x: Tensor, second: Second = None, directions: Tensor | None = None
) -> tuple[Tensor, ...]:
    """``u = model(x)`` with its derivatives by x, each of which can be differentiated again.

    With x(t) = x + t v_k, of every point by itself and at t = 0::

        du          du(x(t))/dt              (N, O, K)
        laplacian   sum_k d2u(x(t))/dt2      (N, O)
        diagonal    d2u(x(t))/dt2            (N, O, K)
        hessian     v_k^T (d2u/dx2) v_m      (N, O, K, K)
        pairs       the same of each (k, m)  (N, O, P), of P pairs

    Without ``directions`` v_1, ..., v_I are the axes: du is the Jacobian, the laplacian the sum of
    all d2u/dx_i^2.

    Args:
        model: nn.Sequential or ours, converted or hand-made blocks (``fc2(act(fc1(x)))``), also
            residual, of Linear and activations: by hand (maths/taylor.py,
            maths/input_gradient.py). With anything else, or under autocast and the like: by nested
            torch.autograd.grad, with equal results. So do small calls that C++ does not take, where
            that is faster (modules/by_input.py). ``explain(model)`` says which. Each row of the
            output must depend on that row of x alone.
        x: (N, I), float32 or float64 by hand. What is returned can be differentiated by x where x
            requires a gradient.
        second: which second derivatives: "laplacian", "diagonal", "hessian", or pairs of numbers of
            the lines, from 0 to K - 1: u_t = u_xx of (x, t) needs [(0, 0)] alone. None for none.
        directions: (K, I), or (N, K, I) with lines of each point's own. Their length counts.

    Returns:
        u (N, O), du, and what ``second`` asks for.

    At a kink derivatives are PyTorch's: ReLU has f'(0) = 0. Second derivatives of piecewise linear
    activations are 0, so the Laplacian of a ReLU network is 0; use a smooth f.

    Raises:
        TypeError: model is no nn.Module; x or directions are no tensors.
        ValueError: x not (N, I); directions of another shape, dtype or device; a ``second`` that
            is none of these; a model whose output is not (N, O).
        RuntimeError: inside forward-mode AD or a transform of torch.func, as autograd.grad.

    Example:
        >>> import torch
        >>> import manualbp
        >>> model = manualbp.MLP((2, 16, 1), "tanh")
        >>> x = torch.rand(5, 2)
        >>> u, du, laplacian = manualbp.derivatives(model, x, "laplacian")
        >>> u.shape, du.shape, laplacian.shape
        (torch.Size([5, 1]), torch.Size([5, 1, 2]), torch.Size([5, 1]))
        >>> (laplacian - 1).square().mean().backward()  # of the equation u_xx + u_yy = 1
    """
    guarded = run_guarded(model, x, second, directions)
    if guarded is not None:
        return guarded
    order = _order(model, x, second, directions)
    if graph_is_faster(model, x, order):
        return nested.derivatives(model, x, order, directions)
    found = stages_or_reason(model)
    by_hand = None if isinstance(found, Reason) else by_input.run(found, x, order, directions)
    return nested.derivatives(model, x, order, directions) if by_hand is None else by_hand


def _order(model: object, x: object, second: object, directions: object) -> Order:
    """What is asked for, all of it checked."""
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise TypeError(f"model must be an nn.Module, got {kind}; pass the model itself")
    for name, tensor in (("x", x), ("directions", directions)):
        if not isinstance(tensor, Tensor) and not (name == "directions" and tensor is None):
            kind = type(tensor).__name__
            raise TypeError(f"{name} must be a tensor, got {kind}; use torch.as_tensor")
    assert isinstance(x, Tensor)
    if x.dim() != 2 or x.shape[1] == 0 or not x.is_floating_point():
        got = f"{tuple(x.shape)} of {x.dtype}"
        raise ValueError(f"x must be (N, I), one point a row, of real numbers; got {got}")
    if not isinstance(directions, Tensor):
        return order_of(_asked(second, x.shape[1]), x.shape[1])
    _check_directions(x, directions)
    return order_of(_asked(second, directions.shape[-2]), directions.shape[-2])


def _asked(second: Any, lines: int) -> Second:
    """The same, pairs as a tuple."""
    if second is None or (isinstance(second, str) and second in SECOND):
        return second  # type: ignore[return-value]
    pairs = second if isinstance(second, Sequence) else ()
    if len(pairs) == 0 or not all(_is_pair(pair, lines) for pair in pairs):
        raise ValueError(
            f"second must be None, {', '.join(SECOND)}, or pairs of numbers from 0 to {lines - 1}, "
            f"such as [(0, 0)]; got {second!r}"
        )
    return tuple((int(k), int(m)) for k, m in pairs)


def _is_pair(pair: object, lines: int) -> bool:
    return (
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(k, Integral) and not isinstance(k, bool) for k in pair)
        and 0 <= min(pair) <= max(pair) < lines
    )


def _check_directions(x: Tensor, directions: Tensor) -> None:
    shape, (points, inputs) = tuple(directions.shape), x.shape
    fits = directions.dim() in (2, 3) and shape[-1] == inputs and shape[-2] > 0
    if not fits or (directions.dim() == 3 and shape[0] != points):
        raise ValueError(
            f"directions must be (K, {inputs}) or ({points}, K, {inputs}) with K of at least 1 "
            f"for an x of {tuple(x.shape)}; got {shape}"
        )
    if directions.dtype is not x.dtype or directions.device != x.device:
        raise ValueError(
            f"directions must be {x.dtype} on {x.device} as x is; got {directions.dtype} on "
            f"{directions.device}; use directions.to(x)"
        )
