"""Arms that are wrong before any number is compared: said in words, under a name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import GradientReport, compare_gradients, load_parameters


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(*arms: Any, **options: Any) -> GradientReport:
    report = compare_gradients(*arms, **options)
    assert report.agrees, (report.verdict, report.differing, report.power)
    return report


def reasons(*arms: Any, **options: Any) -> dict[str, str]:
    """What differs, in words."""
    report = compare_gradients(*arms, power=False, seeds=(0,), **options)
    return {tensor.name: tensor.reason for tensor in report.differing}


def double(x: Tensor) -> Tensor:
    return x * 2


def as_tuple(x: Tensor) -> tuple[Tensor]:
    return (x * 2,)


def with_a_note(x: Tensor) -> tuple[Tensor, str]:
    return x * 2, "note"


def another_shape(x: Tensor) -> Tensor:
    return (x * 2).t()


def another_dtype(x: Tensor) -> Tensor:
    return (x * 2).double()


def another_note(x: Tensor) -> dict[str, Any]:
    return {"o": x * 2, "rows": len(x) + 1}


def nothing(x: Tensor) -> None:
    return None


def raises(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel\n  for this")


def cut_off(x: Tensor) -> Tensor:
    return x.detach() * 2


def edits_its_input(x: Tensor) -> Tensor:
    found = x * 2
    x.data.mul_(2)
    return found


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None


class EditsItsCotangent(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.mul_(2)


class TooMany(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * 2, grad


class WrongShape(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad[:2] * 2


WRONG: list[tuple[Any, str, str]] = [
    (as_tuple, "structure", "structure (tensor,), expected tensor"),
    (with_a_note, "structure", "structure (tensor, 'note'), expected tensor"),
    (another_shape, "output", "shape (3, 4), expected (4, 3)"),
    (another_dtype, "output", "dtype torch.float64, expected torch.float32"),
    (nothing, "output", "expected an output with at least one tensor, got NoneType"),
    (raises, "output", "the candidate raised RuntimeError: no kernel for this"),
    (cut_off, "input.grad", "missing in the candidate, (4, 3) in the reference"),
    (NoGradient, "input.grad", "missing in the candidate, (4, 3) in the reference"),
    (edits_its_input, "input (read only)", "written over by the candidate"),
    (EditsItsCotangent, "the gradient of output (read only)", "written over by the candidate"),
    (TooMany, "output", "returned an incorrect number of gradients (expected 1, got 2)"),
    (WrongShape, "output", "invalid gradient at index 0"),
]


@pytest.mark.parametrize(
    ("wrong", "name", "words"), WRONG, ids=lambda p: getattr(p, "__name__", "")
)
def test_a_wrong_arm_is_reported_in_words(wrong: Any, name: str, words: str) -> None:
    found = reasons(wrong, double, normal(4, 3))
    assert words in found[name], found


def test_a_grad_output_that_a_loss_sends_is_read_only_as_well() -> None:
    found = reasons(EditsItsCotangent, double, normal(4, 3), loss=lambda o: o.square().sum())
    assert "written over by the candidate" in found["the gradient of the output (read only)"]


def test_what_is_no_tensor_is_compared_as_well() -> None:
    def noted(x: Tensor) -> dict[str, Any]:
        return {"o": x * 2, "rows": len(x)}

    assert reasons(noted, noted, normal(4, 3)) == {}
    assert reasons(another_note, noted, normal(4, 3)) == {
        "structure": "structure {'o': tensor, 'rows': 5}, expected {'o': tensor, 'rows': 4}"
    }


def test_a_module_that_edits_its_parameter() -> None:
    class Editing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(1.5)
            return super().forward(x)

    reference, candidate = nn.Linear(3, 2), Editing(3, 2)
    load_parameters(candidate, reference)
    found = reasons(candidate, reference, normal(4, 3))
    assert "written over by the candidate" in found["weight (read only)"]


MISUSE: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: compare_gradients(nn.Linear, double, normal(4, 3)), TypeError, "must be called first"),
    (lambda: compare_gradients(double, double, 3.0), TypeError, "expected inputs to be a tensor"),
    (lambda: compare_gradients(double, double, normal(3), seeds=()), ValueError, "one seed"),
    (lambda: compare_gradients(double, double, normal(3), also=["hessian"]), ValueError, "hessian"),
    (lambda: compare_gradients(double, nothing, normal(3)), TypeError, "at least one tensor"),
]


@pytest.mark.parametrize(("call", "error", "words"), MISUSE)
def test_misuse_is_refused(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_sparse_gradient_is_one_of_another_layout() -> None:
    """Both sparse: judged as ever. One alone: an optimizer would take another path."""
    sparse, dense = nn.Embedding(7, 3, sparse=True), nn.Embedding(7, 3)
    dense.load_state_dict(sparse.state_dict())
    indices = torch.tensor([1, 4, 1, 6])
    agree(copy.deepcopy(sparse), sparse, indices)
    assert reasons(sparse, dense, indices) == {"weight.grad (layout)": "sparse, expected dense"}


def test_an_arm_may_begin_in_place() -> None:
    """nn.ReLU(inplace=True) at the head, which no leaf allows; as a candidate it is told."""
    linear = nn.Linear(4, 2)
    reference = nn.Sequential(nn.ReLU(inplace=True), linear)
    plain = nn.Sequential(nn.ReLU(), copy.deepcopy(linear))
    agree(plain, reference, normal(5, 4))
    assert set(reasons(reference, plain, normal(5, 4))) == {"input (read only)"}


@pytest.mark.parametrize("arm", [torch.fft.fft, lambda z: z * z], ids=["output", "input"])
def test_complex_tensors_are_refused(arm: Any) -> None:
    x = normal(4) if arm is torch.fft.fft else torch.complex(normal(4), normal(4))
    with pytest.raises(TypeError, match=r"expected real tensors, got .* torch\.view_as_real"):
        compare_gradients(arm, arm, x)


def test_a_derivative_the_reference_lacks_is_named() -> None:
    reference = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match=r"expected a reference that has vmap, .*; leave vmap out"):
        compare_gradients(copy.deepcopy(reference), reference, normal(6, 4), also="vmap")
