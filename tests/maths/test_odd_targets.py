"""Losses of odd targets: what is an error, what torch.nn's own code does, what is by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import manualbp
from manualbp.maths import losses
from manualbp.maths.cross_entropy import CrossEntropy


def test_target_that_does_not_fit_names_the_loss_that_does() -> None:
    o = torch.randn(64, 10, requires_grad=True)
    index, real = torch.zeros(64, dtype=torch.int64), torch.zeros(64)
    for criterion, y, message in [
        (manualbp.MSELoss(), index, "for class indices use CrossEntropyLoss"),
        (manualbp.MSELoss(), real, r"must be \(64, 10\) like the output, got \(64,\)"),
        (manualbp.L1Loss(), torch.zeros(64, 10).double(), "must be torch.float32 like the output"),
        (manualbp.CrossEntropyLoss(), real, "MSELoss for regression"),
        (manualbp.CrossEntropyLoss(), index.int(), r"use target.long\(\)"),
        (manualbp.CrossEntropyLoss(), index[:3], r"indices \(64,\) int64 in 0...9, got \(3,\)"),
        (manualbp.BCEWithLogitsLoss(), index, "got torch.int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            criterion(o, y)
    with pytest.raises(ValueError, match=r"must be \(64, 1\) like the output, got \(64,\)"):
        manualbp.MSELoss()(o[:, :1], real)  # torch.nn would warn and average 64 x 64 errors


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_index_out_of_range(smoothing: float) -> None:
    o = torch.randn(4, 3, requires_grad=True)
    criterion = manualbp.CrossEntropyLoss(label_smoothing=smoothing)
    for y in ([0, 1, 3, 0], [0, -1, 2, 0]):
        with pytest.raises(IndexError, match=r"class indices must be in 0\.\.\.2"):
            criterion(o, torch.tensor(y))


def test_wrong_kind_of_argument() -> None:
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum"):
        losses.MSE("average")


def test_what_the_function_cannot_do_falls_back() -> None:
    """Bit-exact, as it is torch.nn that runs."""
    torch.manual_seed(3)
    o = torch.randn(2, 3, 5, requires_grad=True)
    y = torch.randint(0, 3, (2, 5))
    cost = manualbp.CrossEntropyLoss()(o, y)  # images: (N, C, d)
    assert torch.equal(cost, nn.CrossEntropyLoss()(o, y))
    target = torch.randn(4, 3, requires_grad=True)
    manualbp.MSELoss()(torch.randn(4, 3, requires_grad=True), target).backward()
    assert target.grad is not None
    p = torch.randn(4, 3)
    value = torch.func.grad(lambda p: manualbp.MSELoss()(p, target.detach()))(p)
    assert torch.equal(value, torch.func.grad(lambda p: nn.MSELoss()(p, target.detach()))(p))


def test_same_dtype_targets_are_left_to_torch() -> None:
    ints = torch.arange(6).view(2, 3)
    assert manualbp.L1Loss(reduction="sum")(ints, ints + 1) == 6
    z = torch.ones(2, dtype=torch.complex64)
    assert manualbp.L1Loss()(z, -z) == 2


def test_uint8_indices_beyond_the_byte_of_ignore_index() -> None:
    """-100 is 156 as a byte; class 156 must count all the same."""
    torch.manual_seed(10)
    o, y = torch.randn(2, 200).double(), torch.tensor([156, 3], dtype=torch.uint8)
    log_p = torch.log_softmax(o, -1)
    rule = CrossEntropy()
    torch.testing.assert_close(
        rule.gradient(log_p, y), rule.gradient(log_p, y.long()), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("options", "o", "y"),
    [
        ({"label_smoothing": 1.5}, (4, 3), "indices"),
        ({"label_smoothing": -0.1}, (4, 3), "indices"),
        ({"label_smoothing": float("nan")}, (4, 3), "indices"),
        ({"ignore_index": 2}, (4, 3), "probabilities"),
        ({"weight": torch.ones(1)}, (4, 3), "probabilities"),
        ({"weight": torch.ones(2)}, (4, 3), "indices"),
        ({}, (), "probabilities"),
        ({}, (3, 0), "probabilities"),
    ],
)
def test_what_torch_makes_of_odd_cross_entropies(options: Any, o: tuple[int, ...], y: str) -> None:
    """The same value, or the same error."""
    torch.manual_seed(0)
    output = torch.randn(o, requires_grad=True)
    target = torch.randint(0, 3, o[:1]) if y == "indices" else torch.rand(o)
    results = []
    for package in (manualbp, nn):
        try:
            results.append(str(package.CrossEntropyLoss(**options)(output, target).item()))
        except (RuntimeError, IndexError) as error:
            results.append(f"{type(error).__name__} {error}")
    assert results[0] == results[1]


def test_weights_of_another_dtype_are_left_to_torch() -> None:
    torch.manual_seed(0)
    w, y = torch.rand(3).double(), torch.rand(4, 3)
    found = []
    for package in (manualbp, nn):
        o = torch.linspace(-1, 1, 12).view(4, 3).requires_grad_()
        cost = package.BCEWithLogitsLoss(weight=w)(o, y)
        cost.backward()
        assert type(cost.grad_fn).__name__ != "CostBackward"
        found.append(o.grad)
    assert torch.equal(*found)


def test_three_dimensions_are_by_hand_for_elementwise_losses() -> None:
    cost = manualbp.MSELoss()(torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4))
    assert type(cost.grad_fn).__name__ == "CostBackward"


def test_byte_targets() -> None:
    """Bit-exact."""
    o, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0], dtype=torch.uint8)
    cost = manualbp.CrossEntropyLoss()(o, y)
    assert type(cost.grad_fn).__name__ == "CostBackward"
    assert torch.equal(cost, nn.CrossEntropyLoss()(o, y))
