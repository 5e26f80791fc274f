"""Further derivatives that are wrong where the first gradient is right: each is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manualbp.parity import compare_gradients
from manualbp.parity.record import DIFFER

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def square(x: Tensor) -> Tensor:
    return x * x


class Right(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return 2 * d * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Any:
        return 2 * t * ctx.saved_tensors[0]


class AsNumbers(Right):
    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return 2 * d * ctx.saved_tensors[0].detach()


class Once(Right):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Any:
        return 2 * d * ctx.saved_tensors[0]


class HalfJvp(Right):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Any:
        return t * ctx.saved_tensors[0]


class NoJvp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return 2 * d * ctx.saved_tensors[0]


class Centred(torch.autograd.Function):
    """x - mean over all rows; its vmap takes the mean over the stack as well."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x - x.mean(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return d - d.mean(0)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return Centred.apply(x), 0


class Product(torch.autograd.Function):
    """x w^T; under autocast another scale, and right outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.half = torch.is_autocast_enabled("cpu")
        return x @ w.T

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        x, w = ctx.saved_tensors
        d = d.to(x.dtype)
        return d @ w, d.T @ x * (2 if ctx.half else 1)


def test_a_fault_under_autocast_and_none_in_another_order_of_rounding() -> None:
    x, w = X.float(), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))

    def linear(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, w)

    def by_parts(x: Tensor, w: Tensor) -> Tensor:
        return linear(x[:, :2], w[:, :2]) + linear(x[:, 2:], w[:, 2:])

    report = compare_gradients(Product, linear, (x, w), also="autocast", seeds=(0,))
    assert [t.name for t in report.differing] == ["autocast input[1].grad"]
    assert "2 x reference" in report.findings[0].words and "casts" in report.findings[0].next_step
    for arm in (by_parts, linear):
        assert not compare_gradients(arm, linear, (x, w), also="autocast").differing


CASES = {
    "saved as numbers": (AsNumbers, square, "second_order", "second_order", "constants"),
    "once differentiable": (Once, square, "second_order", "second_order", "missing"),
    "half a jvp": (HalfJvp, square, "forward_mode", "forward_mode", "0.5 x reference"),
    "no jvp": (NoJvp, square, "forward_mode", "raised", "the candidate raised"),
    "no vmap": (NoJvp, square, "vmap", "raised", "the candidate raised"),
    "a stack of inputs": (Centred, lambda x: x - x.mean(0), "vmap", "vmap", "stacked dimension"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name: str) -> None:
    candidate, reference, kind, expected, words = CASES[name]
    report = compare_gradients(candidate, reference, X, also=(kind,), seeds=(0,), power=False)
    assert report.verdict == DIFFER
    finding = report.findings[0]
    assert finding.kind == expected and words in finding.words and finding.next_step, finding


def test_a_right_one_has_no_finding() -> None:
    kinds = ("second_order", "forward_mode", "vmap")
    report = compare_gradients(Right, square, X, also=kinds, seeds=(0,))
    assert report.agrees and not report.findings
