"""derivatives against nested autograd, judged by parity's float64 run; faults planted in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from manualbp.autograd import taylor as function
from manualbp.maths import input_gradient, taylor
from manualbp.maths.activations import ACTIVATIONS, Tanh, to_module
from manualbp.maths.layers import Elementwise, Linear
from manualbp.maths.order import Order
from manualbp.maths.taylor import Jet
from manualbp.parity import compare_gradients
from manualbp.parity.record import GradientReport
from tests.conversion.derived import SECOND, ByHand, Nested, mlp, points, same


def compared(
    widths: tuple[int, ...], rows: int, name: str, second: Any, lines: int = 0, **options: Any
) -> GradientReport:
    torch.manual_seed(0)
    net = mlp(*widths, act=lambda: to_module(ACTIVATIONS[name])).float()
    v = points(lines, widths[0], torch.float32, trained=False) if lines else None
    x = points(rows, widths[0], torch.float32)
    return compare_gradients(ByHand(net, second, v), Nested(net, second, v), x, **options)


def ratio(report: GradientReport) -> float:
    """The candidate's rms error over nested autograd's own: the geometric mean over all tensors."""
    pairs = [
        (t.candidate_error, t.reference_error) for check in report.checks for t in check.tensors
    ]
    logs = [math.log(max(ours / theirs, 1e-3)) for ours, theirs in pairs if theirs]
    return math.exp(sum(logs) / max(len(logs), 1))


QUICK = {"power": False, "situations": False, "seeds": (0,)}


@pytest.fixture(params=["as found", "in Python"])
def way(request: pytest.FixtureRequest) -> None:
    if request.param == "in Python":
        request.getfixturevalue("in_python")


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("second", SECOND, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_error_beside_nested_autograds(name: str, second: Any) -> None:
    """Parity's rule for each tensor; 1.5 for all of them together."""
    report = compared((3, 17, 9, 2), 61, name, second, **QUICK)
    assert report.agrees, report.differing
    assert ratio(report) <= 1.5


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("second", ["laplacian", "hessian"], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_error_of_wide_networks(name: str, second: Any) -> None:
    report = compared((2, 128, 128, 128, 128, 1), 500, name, second, **QUICK)
    assert report.agrees, report.differing
    assert ratio(report) <= 1.5


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("second", [*SECOND, ((1, 1),)], ids=str)
def test_with_power_in_all_situations(second: Any) -> None:
    """Every standard fault would be seen, and the candidate runs in every situation."""
    report = compared((3, 5, 4, 2), 7, "tanh", second, lines=2, seeds=(0,), also="second_order")
    assert report.agrees, (report.verdict, report.differing, report.power)


# Faults, planted in Python.

_tangents = input_gradient.tangents
_derivatives, _pulled = Tanh.derivatives, taylor.pulled
_linear_backward, _squares = taylor.linear_backward, taylor.squares
_elementwise_backward, _shown, _hidden = (
    taylor.elementwise_backward,
    function._shown,
    function._hidden,
)


def _no_third(self: Tanh, a: Tensor) -> Any:
    slope, curvature, third = _derivatives(self, a)
    return slope, curvature, torch.zeros_like(third)


def _no_curvature(self: Tanh, a: Tensor) -> Any:
    slope, curvature, third = _derivatives(self, a)
    return slope, torch.zeros_like(curvature), third


def _bias_over_all_rows(g: Jet, h: Jet, theta: Any, needs: Any, grads: list[Any]) -> Jet:
    found = _linear_backward(g, h, theta, needs, grads)
    if grads[-2] is not None:
        grads[-2] = grads[-2] + sum(part.sum((0, 1)) for part in g[1:] if part is not None)
    return found


def _weight_without(order: int) -> Callable[..., Jet]:
    """The weight's gradient without the value's rows, the first or the second derivatives'."""

    def fault(g: Jet, h: Jet, theta: Any, needs: Any, grads: list[Any]) -> Jet:
        parts = [None if i == order else part for i, part in enumerate(h)]
        return _linear_backward(g, Jet(*parts), theta, needs, grads)

    return fault


def _other_line(first: Tensor, order: Order) -> Tensor:
    return _squares(first.roll(1, 0), order)


def _other_line_pulled(into: Any, g: Tensor, first: Tensor, order: Order) -> Tensor:
    return _pulled(into, g, first.roll(1, 0), order)


def _half_pulled(into: Any, g: Tensor, first: Tensor, order: Order) -> Tensor:
    return _pulled(into, g / 2, first, order)


def _twice_on_the_diagonal(grads: Any, order: Order) -> Jet:
    """g_km + g_mk for k = m as well."""
    g = grads[2]
    twice = None if g is None else g + torch.diag_embed(g.diagonal(dim1=2, dim2=3))
    return _hidden([*grads[:2], twice], order)


def _diagonal(order: Order) -> Order:
    """(k, k) in place of each (k, m)."""
    return Order(None, order.lines, tuple((k, k) for k, _ in order.pairs), order.shape)


def _turned(order: Order) -> Order:
    """The pairs in the order of the last one first."""
    return Order(None, order.lines, order.asked[::-1], order.shape)


def _other_columns(jet: Jet, order: Order) -> Any:
    u, first, second = _shown(jet, order)
    return [u, first, second.roll(1, 2)]


def _last_column_alone(grads: Any, order: Order) -> Jet:
    """Of equal columns."""
    return _hidden([*grads[:2], grads[2] * torch.tensor([0.0, 1.0], dtype=torch.float64)], order)


def _first_dropped(g: Jet, *rest: Any) -> Jet:
    return _elementwise_backward(g._replace(first=None), *rest)


def _not_along(g: Jet, z: Jet, *rest: Any) -> Jet:
    """dC/dz without f'' sum_k g'_k z'_k."""
    found = _elementwise_backward(g, z, *rest)
    zeros = g._replace(first=None)
    return found._replace(value=_elementwise_backward(zeros, z, *rest).value)


def _not_curved(g: Jet, z: Jet, *rest: Any) -> Jet:
    """dC/dz without f'' g'' z''."""
    return _elementwise_backward(g, z._replace(second=None), *rest)


def _transposed(jet: Jet, second: Any) -> Any:
    u, first, *more = _shown(jet, second)
    return [u, first.mT.contiguous(), *more]


def _brought_by(kind: type) -> Any:
    """What v brings in at these layers alone."""

    def tangents(v: Tensor, steps: Any, tape: Any, deltas: Any, brought: list[Any]) -> None:
        found = list(brought)
        _tangents(v, steps, tape, deltas, found)
        for i, step in enumerate(steps):
            brought[i] = found[i] if isinstance(step.layer, kind) else brought[i]

    return tangents


TWO_PAIRS, MIXED, EQUAL_PAIRS = ((1, 1), (0, 1)), ((0, 1),), ((0, 1), (1, 0))
FAULTS: dict[str, tuple[Any, str, Any, Any]] = {
    "f''' forgotten": (Tanh, "derivatives", _no_third, "laplacian"),
    "f'' forgotten": (Tanh, "derivatives", _no_curvature, "laplacian"),
    "2 f'' without the 2": (taylor, "pulled", _half_pulled, "diagonal"),
    "the bias summed over all rows": (taylor, "linear_backward", _bias_over_all_rows, "laplacian"),
    "dC/dW without h": (taylor, "linear_backward", _weight_without(0), "laplacian"),
    "dC/dW without h'": (taylor, "linear_backward", _weight_without(1), "laplacian"),
    "dC/dW without h''": (taylor, "linear_backward", _weight_without(2), "laplacian"),
    "lines mixed in q": (taylor, "squares", _other_line, "diagonal"),
    "lines mixed in dq": (taylor, "pulled", _other_line_pulled, "hessian"),
    "du transposed": (function, "_shown", _transposed, "hessian"),
    "the diagonal counts twice": (function, "_hidden", _twice_on_the_diagonal, "hessian"),
    "pairs mixed in q": (taylor, "squares", lambda f, o: _squares(f, _turned(o)), TWO_PAIRS),
    "pairs mixed in dq": (taylor, "pulled", lambda *a: _pulled(*a[:3], _turned(a[3])), TWO_PAIRS),
    "columns mixed": (function, "_shown", _other_columns, ((1, 1), (0, 1), (1, 0))),
    "(k, k) for (k, m) in q": (taylor, "squares", lambda f, o: _squares(f, _diagonal(o)), MIXED),
    "(k, k) in dq": (taylor, "pulled", lambda *a: _pulled(*a[:3], _diagonal(a[3])), MIXED),
    "equal columns not added up": (function, "_hidden", _last_column_alone, EQUAL_PAIRS),
    "du's cotangent dropped": (taylor, "elementwise_backward", _first_dropped, "laplacian"),
    "du's cotangent not in dC/dz": (taylor, "elementwise_backward", _not_along, "laplacian"),
    "z'' not in dC/dz": (taylor, "elementwise_backward", _not_curved, "laplacian"),
    "du: what f'' brings in forgotten": (input_gradient, "tangents", _brought_by(Linear), None),
    "du: delta^T v not in dC/dW": (input_gradient, "tangents", _brought_by(Elementwise), None),
}


@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many outputs as lines, so that a transposed du has its shape; fewer for du by outputs."""
    where, name, wrong, second = FAULTS[fault]
    call = mlp(3, 5, 4, 2), points(7, 3), second, points(2 if second else 3, 3, trained=False)
    same(*call, orders=1)
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        same(*call, orders=1)


@pytest.mark.slow
@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize("fault", FAULTS)
def test_parity_sees_it_in_float32(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong, second = FAULTS[fault]
    call = (3, 5, 4, 2), 7, "tanh", second, 2 if second else 3
    assert compared(*call, **QUICK).agrees
    monkeypatch.setattr(where, name, wrong)
    assert not compared(*call, **QUICK).agrees
