"""What derivatives refuses, in words; what passes through it as in nested autograd."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import manualbp
from tests.conversion.derived import ByHand, Nested, mlp, points

X = points(4, 3, trained=False)
LINES = "directions must be "
SECOND = (
    "second must be None, laplacian, diagonal, hessian, or pairs of numbers from 0 to 2, such as "
    r"\[\(0, 0\)\]; "
)
NO_POINTS = r"x must be \(N, I\), one point a row, of real numbers; got "
REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "a function": (torch.tanh, {}, TypeError, "model must be an nn.Module, got builtin_function"),
    "a class": (nn.Tanh, {}, TypeError, "model must be an nn.Module, got type"),
    "x a list": (None, {"x": [[1.0]]}, TypeError, "x must be a tensor, got list"),
    "lines a list": (None, {"directions": [[1.0]]}, TypeError, "directions must be a tensor"),
    "one point": (None, {"x": X[0]}, ValueError, NO_POINTS + r"\(3,\) of torch.float64"),
    "three dims": (None, {"x": X[None]}, ValueError, NO_POINTS + r"\(1, 4, 3\)"),
    "integers": (None, {"x": X.int()}, ValueError, NO_POINTS + r"\(4, 3\) of torch.int32"),
    "complex": (None, {"x": X.cfloat()}, ValueError, NO_POINTS + r"\(4, 3\) of torch.complex64"),
    "no features": (None, {"x": X[:, :0]}, ValueError, NO_POINTS + r"\(4, 0\)"),
    **{repr(second): (None, {"second": second}, ValueError, SECOND + re.escape(f"got {second!r}"))
       for second in (
           "Hessian", ["hessian"], True, 0, [], (), (0, 0), [0], [(0,)], [(0, 0, 0)], [(0, 3)],
           [(0, -1)], [(0, 1), (3, 3)], [(True, 0)], [(0.0, 0)], [("0", "0")], ["00"], [None],
           {(0, 0)}, X[:2, :2].int())},
    "of the lines": (None, {"second": [(2, 2)], "directions": X[:2]}, ValueError, "from 0 to 1,"),
    "one line": (None, {"directions": X[0]}, ValueError, LINES + r"\(K, 3\).*got \(3,\)"),
    "no line": (None, {"directions": X[:0]}, ValueError, LINES + r".*at least 1.*got \(0, 3\)"),
    "narrow": (None, {"directions": X[:, :2]}, ValueError, LINES + r".*got \(4, 2\)"),
    "other points": (None, {"directions": X[None]}, ValueError, LINES + r".*got \(1, 4, 3\)"),
    "lines' dtype": (None, {"directions": X.float()}, ValueError, r"float32.*\.to\(x\)"),
    "lines' device": (None, {"directions": X.to("meta")}, ValueError, "got .* meta"),
    "a flat output": (nn.Sequential(mlp(3, 2), nn.Flatten(0)), {}, ValueError, r"got \(8,\)"),
    "a deep output": (nn.Unflatten(1, (3, 1)), {}, ValueError, r"got \(4, 3, 1\)"),
    "x too wide": (mlp(2, 2), {}, RuntimeError, "shapes cannot be multiplied"),
    "x of another dtype": (mlp(3, 2).float(), {}, RuntimeError, "dtype"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    model, options, error, words = REFUSED[case]
    given = {"model": mlp(3, 4, 2) if model is None else model, "x": X} | options
    with pytest.raises(error, match=words):
        manualbp.derivatives(**given)


def test_lists_of_tensors_are_no_output() -> None:
    class Two(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(ValueError, match="got tuple"):
        manualbp.derivatives(Two(3, 2).double(), X)


@pytest.mark.parametrize("second", [None, "laplacian", "hessian"], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_nan_and_infinity_stay_in_their_row(value: float, second: Any) -> None:
    net, x = mlp(3, 4, 2), X.clone()
    x[1, 2] = value
    for ours, theirs in zip(ByHand(net, second)(x), Nested(net, second)(x), strict=True):
        keep = torch.tensor([0, 2, 3])
        torch.testing.assert_close(ours[keep], theirs[keep])
        if value != value:
            assert ours[1].isnan().all() and theirs[1].isnan().all()


TRANSFORMS: dict[str, Any] = {
    "vmap": lambda arm, x: torch.func.vmap(lambda row: arm(row[None])[2][0])(x),
    "jvp": lambda arm, x: torch.func.jvp(lambda y: arm(y)[2], (x,), (torch.ones_like(x),)),
    "grad by parameters": lambda arm, x: torch.func.grad(
        lambda values: torch.func.functional_call(arm, values, (x,))[2].sum()
    )({name: p.detach() for name, p in arm.named_parameters()}),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_inside_a_transform_they_say_so(transform: Any) -> None:
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jacrev there"):
        transform(ByHand(mlp(3, 4, 2), "laplacian"), X)


def test_a_tangent_is_not_dropped() -> None:
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="derivatives cannot run inside forward-mode AD"),
    ):
        manualbp.derivatives(mlp(3, 4, 2), forward_ad.make_dual(X, torch.ones_like(X)))


def test_an_inference_tensor_and_no_outputs_are_served() -> None:
    net = mlp(3, 4, 2)
    with torch.inference_mode():
        x = X.clone()
    for found, expected in zip(ByHand(net, "hessian")(x), Nested(net, "hessian")(X), strict=True):
        torch.testing.assert_close(found.detach(), expected.detach())
    with pytest.warns(UserWarning, match="zero-element"):
        none = nn.Linear(3, 0).double()
    assert manualbp.derivatives(none, X, "hessian")[2].shape == (4, 0, 3, 3)
