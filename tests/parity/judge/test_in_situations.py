"""Situations of real programs: each planted fault is right in a plain run, and found in its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import GradientReport, compare_gradients
from manualbp.parity.judge.situations import SITUATIONS
from manualbp.parity.record import AGREE, DIFFER, NOT_JUDGED

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
ONCE: dict[str, Any] = {"seeds": (0,), "power": False}


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


class Tanh(torch.autograd.Function):
    """The right one; each fault below changes one thing in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a = torch.tanh(x)
        ctx.save_for_backward(a)
        return a.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (a,) = ctx.saved_tensors
        return d * (1 - a * a)


class Eats(Tanh):
    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (a,) = ctx.saved_tensors
        return a.data.square_().neg_().add_(1).mul_(d).clone()


class Frees(Tanh):
    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (a,) = ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()
        if hasattr(ctx, "done"):
            raise RuntimeError("the buffers are gone")
        ctx.done = True
        return d * (1 - a * a)


class DenseGrad(Tanh):
    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (a,) = ctx.saved_tensors
        return torch.as_strided(d, d.shape, (d.shape[1], 1), d.storage_offset()) * (1 - a * a)


class DenseExceptExpanded(Tanh):
    """Wrong only for what ``sum`` sends back."""

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (a,) = ctx.saved_tensors
        return d * (1 - a * a) * (2 if 0 in d.stride() else 1)


class DenseInput(Tanh):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a = torch.tanh(torch.as_strided(x, x.shape, (x.shape[1], 1), x.storage_offset()))
        ctx.save_for_backward(a)
        return a.clone()


class OnTheClass(Tanh):
    kept: Tensor

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        OnTheClass.kept = torch.tanh(x)
        return OnTheClass.kept.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return d * (1 - OnTheClass.kept**2)


class OneBuffer(Tanh):
    """Hands out the same memory at every call, which autograd takes for ``.grad``."""

    buffer = torch.zeros(4, 6)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (a,) = ctx.saved_tensors
        return torch.mul(d, 1 - a * a, out=OneBuffer.buffer).view(4, 6)


class Product(torch.autograd.Function):
    """x w; a gradient is wrong where the other one is not asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return d * w * (1 if ctx.needs_input_grad[1] else 2), d * x


class SinCos(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> Any:
        (x,) = ctx.saved_tensors
        if a is None or b is None:
            return torch.ones_like(x)
        return a * x.cos() - b * x.sin()


def sin_cos(x: Tensor) -> Any:
    return x.sin(), x.cos()


class MustHaveBoth(SinCos):
    @staticmethod
    def backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> Any:
        (x,) = ctx.saved_tensors
        return a * x.cos() - b * x.sin()  # type: ignore[operator]


# candidate, reference, inputs, the situation, what its words hold
PLANTED: dict[str, tuple[Any, Any, Any, str, str]] = {
    "eats what it saved": (Eats, tanh, X, "second backward", "writes over what it saved"),
    "frees what it saved": (Frees, tanh, X, "second backward", "raised RuntimeError: the buffers"),
    "dense grad_output": (DenseGrad, tanh, X, "grad_output in another layout", "not contiguous"),
    "expanded grad_output": (DenseExceptExpanded, tanh, X, "grad_output in another layout",
                             "expanded"),
    "dense input": (DenseInput, tanh, X, "inputs in another layout", "not contiguous"),
    "state on the class": (OnTheClass, tanh, X, "two calls before two backwards", "outside ctx"),
    "one buffer": (OneBuffer, tanh, X, "added to an existing .grad", "holds a gradient already"),
    "needs_input_grad": (Product, torch.mul, (X, X + 1), "some gradients not asked for",
                         "without a gradient for input[1]"),
    "None for an output": (SinCos, sin_cos, X, "one output used alone", "another output is not"),
    "raises for an output": (MustHaveBoth, sin_cos, X, "one output used alone", "raised TypeError"),
}  # fmt: skip


def failed(report: GradientReport) -> list[str]:
    return [situation.name for situation in report.failed]


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_right_only_in_a_plain_run(name: str) -> None:
    candidate, reference, inputs, situation, words = PLANTED[name]
    plain = compare_gradients(candidate, reference, inputs, situations=False, **ONCE)
    assert plain.agrees and not plain.situations
    report = compare_gradients(candidate, reference, inputs, **ONCE)
    assert report.verdict == DIFFER and situation in failed(report), report.situations
    found = next(finding for finding in report.findings if finding.kind == situation)
    assert words in found.words and found.next_step


class Net(nn.Module):
    """All that may go wrong in a right one: dropout, statistics, ties, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        h = self.drop(torch.relu(self.norm(self.first(x))))
        return {"a": self.first(h) + y, "b": h.sum(1), "n": torch.tensor(3)}


RIGHT: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "Function": lambda: (Tanh, tanh, X),
    "outputs": lambda: (sin_cos, sin_cos, X),
    "strided": lambda: (Tanh, tanh, torch.randn(4, 12)[:, ::2]),
    "one number": lambda: (torch.square, torch.square, torch.tensor(3.0)),
    "empty": lambda: (torch.tanh, torch.tanh, torch.zeros(0, 3)),
    "in place": lambda: (lambda x: x.mul_(2), lambda x: x * 2, X),
    "attention": lambda: (
        (nn.functional.scaled_dot_product_attention,) * 2 + ((torch.randn(1, 2, 5, 4),) * 3,)
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_agrees_in_every_situation(name: str) -> None:
    candidate, reference, inputs = RIGHT[name]()
    report = compare_gradients(candidate, reference, inputs, **ONCE)
    assert {s.verdict for s in report.situations} <= {AGREE}, report.situations


def test_a_module_agrees_with_its_copy_in_every_situation() -> None:
    torch.manual_seed(0)
    reference, candidate = Net(), Net()
    candidate.load_state_dict(reference.state_dict())
    before = {n: t.clone() for n, t in candidate.state_dict().items()}
    reference.first.bias.requires_grad_(False)
    candidate.first.bias.requires_grad_(False)
    report = compare_gradients(candidate, reference, (X, X), **ONCE)
    assert {s.verdict for s in report.situations} == {AGREE}, report.situations
    assert len(report.situations) == len(SITUATIONS)
    assert all(torch.equal(t, before[n]) for n, t in candidate.state_dict().items())
    assert [p.requires_grad for p in candidate.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in candidate.parameters())


def test_a_compiler_that_refuses_a_second_backward_is_not_wrong() -> None:
    class Donates(Frees):
        @staticmethod
        def backward(ctx: Any, d: Tensor) -> Any:
            try:
                return Frees.backward(ctx, d)
            except RuntimeError:
                raise RuntimeError("compiled with non-empty donated buffers") from None

    report = compare_gradients(Donates, tanh, X, **ONCE)
    verdicts = {s.name: s for s in report.situations}
    assert report.agrees and verdicts["second backward"].verdict == NOT_JUDGED
    assert "refuses a second backward" in verdicts["second backward"].words


def test_where_the_reference_fails_as_well_nothing_is_judged() -> None:
    report = compare_gradients(Eats, Eats, X, **ONCE)
    assert report.agrees
    verdicts = {s.name: s for s in report.situations}
    assert verdicts["second backward"].verdict == NOT_JUDGED
    assert "changes there as well" in verdicts["second backward"].words
    report = compare_gradients(lambda x: x.view(24), lambda x: x.view(24), X, **ONCE)
    verdicts = {s.name: s for s in report.situations}
    assert verdicts["inputs in another layout"].verdict == NOT_JUDGED
    assert "the reference raises RuntimeError" in verdicts["inputs in another layout"].words


def test_many_parameters_are_frozen_in_halves() -> None:
    """Each is frozen in a run in which any other one is not."""
    net = nn.Sequential(*[nn.Linear(3, 3) for _ in range(10)])
    seen: set[tuple[bool, ...]] = set()

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(tuple(p.requires_grad for p in self.parameters()))
            return super().forward(x)

    report = compare_gradients(Watched(*net), net, torch.randn(2, 3), **ONCE)
    assert report.agrees and len(seen) <= 11
    count = len(list(net.parameters()))
    for i in range(count):
        for j in range(count):
            assert i == j or any(not wants[i] and wants[j] for wants in seen)


def test_given_layouts_are_named_where_the_plain_run_differs() -> None:
    """The right numbers without gaps, others with them; a fault of its own is not put on them."""
    strided = torch.randn(4, 12)[:, ::2]
    for arm, inputs, cotangent, kind in (
        (DenseInput, strided, None, "inputs in another layout"),
        (DenseGrad, X, strided, "grad_output in another layout"),
        (lambda x: x * x, strided, strided, "unknown"),
    ):
        report = compare_gradients(arm, tanh, inputs, cotangent=cotangent, **ONCE)
        assert report.verdict == DIFFER and report.findings[0].kind == kind, report.findings


def test_nothing_more_is_run_where_the_plain_run_differs() -> None:
    report = compare_gradients(lambda x: 2 * x, tanh, X, **ONCE)
    assert report.verdict == DIFFER and not report.situations
