"""Every loss: value and gradient against torch.nn bit for bit, formula against the fused kernel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.maths import losses
from manualbp.maths.cross_entropy import CrossEntropy, LogSoftmax


@dataclass(frozen=True)
class Case:
    """A loss, its options, and how its target is made for outputs of a shape."""

    name: str
    target: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = (f"{name}={value}" for name, value in self.options.items())
        return "-".join([self.name, self.target, *options])

    def build(self, package: Any, reduction: str, classes: int, dtype: torch.dtype) -> nn.Module:
        options = dict(self.options)
        for key in ("weight", "pos_weight"):
            if key in options:
                options[key] = torch.linspace(0.5, 2, classes, dtype=dtype)
        return getattr(package, self.name)(reduction=reduction, **options)

    def make_target(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.target == "real":
            return torch.randn(shape).to(dtype)
        if self.target == "unit":
            return torch.rand(shape).to(dtype)
        if self.target == "probabilities":
            return torch.softmax(torch.randn(shape), -1).to(dtype)
        index = torch.randint(0, shape[-1], shape[:-1])
        if self.target == "ignored" and index.dim():
            index[::3] = -100
        return index


CASES = [
    Case("MSELoss", "real"),
    Case("L1Loss", "real"),
    Case("HuberLoss", "real", {"delta": 0.7}),
    Case("SmoothL1Loss", "real", {"beta": 0.5}),
    Case("SmoothL1Loss", "real", {"beta": 0.0}),
    Case("BCEWithLogitsLoss", "unit"),
    Case("BCEWithLogitsLoss", "unit", {"weight": True}),
    Case("BCEWithLogitsLoss", "unit", {"pos_weight": True}),
    Case("BCEWithLogitsLoss", "unit", {"weight": True, "pos_weight": True}),
    *(
        Case("CrossEntropyLoss", target, options)
        for target in ("indices", "ignored", "probabilities")
        for options in (
            {},
            {"weight": True},
            {"label_smoothing": 0.1},
            {"weight": True, "label_smoothing": 0.1},
        )
    ),
    Case("CrossEntropyLoss", "indices", {"ignore_index": 1}),
]
SHAPES = [(5,), (1, 1), (1, 4), (7, 3), (33, 10), (0, 3)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def gradient_of(criterion: nn.Module, o: Tensor, y: Tensor, cotangent: Tensor) -> tuple[Any, Any]:
    o = o.detach().requires_grad_()
    cost = criterion(o, y)
    cost.backward(cotangent)
    return cost, o.grad


def skip_without_kernel(case: Case, dtype: torch.dtype) -> None:
    """Older versions of PyTorch lack some half-precision kernels on CPU."""
    o = torch.randn(2, 3).to(dtype)
    try:
        y = case.make_target((2, 3), dtype)
        gradient_of(case.build(nn, "sum", 3, dtype), o, y, torch.ones((), dtype=dtype))
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__}: {error}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bit_identical_with_torch_nn(case: Case, reduction: str, dtype: torch.dtype) -> None:
    skip_without_kernel(case, dtype)
    torch.manual_seed(0)
    for shape in SHAPES:
        o, y = torch.randn(shape).to(dtype), case.make_target(shape, dtype)
        ours = case.build(manualbp, reduction, shape[-1], dtype)
        theirs = case.build(nn, reduction, shape[-1], dtype)
        cotangent = torch.randn(theirs(o, y).shape).to(dtype)
        cost, grad = gradient_of(ours, o, y, cotangent)
        cost_ref, grad_ref = gradient_of(theirs, o, y, cotangent)
        assert type(cost.grad_fn).__name__ == "CostBackward"
        # NaN where torch has NaN: the mean over no samples
        assert torch.equal(cost.nan_to_num(7.0), cost_ref.nan_to_num(7.0))
        assert torch.equal(grad.nan_to_num(7.0), grad_ref.nan_to_num(7.0))


def rule_of(criterion: nn.Module) -> losses.Loss:
    """The equations behind a drop-in loss."""
    if isinstance(criterion, nn.CrossEntropyLoss):
        return CrossEntropy(
            criterion.reduction, criterion.weight, criterion.ignore_index, criterion.label_smoothing
        )
    options = {k: getattr(criterion, k) for k in ("delta", "beta", "weight", "pos_weight")
               if hasattr(criterion, k)}  # fmt: skip
    return getattr(losses, type(criterion).__name__.removesuffix("Loss"))(
        criterion.reduction, **options
    )


def worst_gap(case: Case, reduction: str) -> float:
    """Largest distance of the exact backward from the written formula, fp64."""
    torch.manual_seed(4)
    worst = 0.0
    for shape in SHAPES:
        o, y = torch.randn(shape).double(), case.make_target(shape, torch.float64)
        rule = rule_of(case.build(manualbp, reduction, shape[-1], torch.float64))
        o = torch.log_softmax(o, -1) if case.name == "CrossEntropyLoss" else o
        cost, kept = rule.forward(o, y)
        grad = torch.randn(cost.shape).double()
        gap = (rule.backward(grad, o, y, *kept) - rule.formula(grad, o, y)).abs()
        worst = max(worst, float(gap.max()) if gap.numel() else 0.0)
    return worst


@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_backward_is_the_formula(case: Case, reduction: str) -> None:
    """1e-14: numbers of size 1, a few roundings."""
    assert worst_gap(case, reduction) < 1e-14


def test_planted_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (losses.MSE, losses.BCEWithLogits, CrossEntropy):
        right = owner.gradient
        monkeypatch.setattr(owner, "gradient", lambda self, o, y, r=right: r(self, o, y) * 1.0001)
    for name in ("MSELoss-real", "BCEWithLogitsLoss-unit", "CrossEntropyLoss-indices"):
        case = next(case for case in CASES if str(case) == name)
        assert worst_gap(case, "mean") > 1e-7


def test_log_softmax_and_cross_entropy_make_p_minus_q() -> None:
    """1e-15: probabilities, a few roundings."""
    torch.manual_seed(5)
    o, y = torch.randn(6, 4).double(), torch.randint(0, 4, (6,))
    rule, log_p = LogSoftmax(), torch.log_softmax(o, -1)
    delta = CrossEntropy().gradient(log_p, y)
    p_minus_q = (torch.softmax(o, -1) - nn.functional.one_hot(y, 4)) / 6
    for gradient in (rule.formula, rule.backward):
        torch.testing.assert_close(gradient(delta, log_p), p_minus_q, rtol=0, atol=1e-15)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck_of_both_orders(case: Case) -> None:
    """PyTorch's own tolerances; in o and in the cotangent."""
    for reduction in losses.REDUCTIONS:
        torch.manual_seed(6)
        o = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        y = case.make_target((4, 3), torch.float64)
        criterion = case.build(manualbp, reduction, 3, torch.float64)
        assert torch.autograd.gradcheck(lambda o: criterion(o, y), o)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda o: criterion(o, y), o)  # noqa: B023


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_recorded_gradients_have_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    """create_graph=True, ordinary and extreme outputs; a mean over no samples gives zeros."""
    skip_without_kernel(case, dtype)
    torch.manual_seed(7)
    for reduction, scale in itertools.product(losses.REDUCTIONS, (1.0, 200.0)):
        o, y = (scale * torch.randn(7, 3)).to(dtype), case.make_target((7, 3), dtype)
        for target in (y, torch.full_like(y, -100)) if case.target == "ignored" else (y,):
            found = []
            for package in (manualbp, nn):
                leaf = o.clone().requires_grad_()
                cost = case.build(package, reduction, 3, dtype)(leaf, target)
                grad = torch.ones_like(cost) * 0.75
                found.append(torch.autograd.grad(cost, leaf, grad, create_graph=True)[0])
            assert torch.equal(found[0].nan_to_num(7.0), found[1].nan_to_num(7.0))
            assert not found[1].isnan().any()


@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_formula_and_second_derivative(case: Case, reduction: str) -> None:
    """create_graph: first order and the written second order, fp64, a few roundings (1e-10)."""
    torch.manual_seed(1)
    shape = (7, 3)
    y = case.make_target(shape, torch.float64)
    results = []
    for package in (manualbp, nn):
        torch.manual_seed(2)
        o = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        cost = case.build(package, reduction, shape[-1], torch.float64)(o, y)
        (first,) = torch.autograd.grad(cost, o, torch.cos(cost.detach()), create_graph=True)
        second = torch.zeros_like(o)
        if first.requires_grad:
            (second,) = torch.autograd.grad((first * torch.randn(shape).double()).sum(), o)
        results.append((first.detach(), second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("in_python")
def test_planted_missing_mean_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient without the 1/n must turn the comparison with autograd red."""
    monkeypatch.setattr(losses.BCEWithLogits, "_averaged", lambda self, gradient: gradient)
    monkeypatch.setattr(CrossEntropy, "_count", lambda self, y: torch.tensor(1))
    for case in (
        Case("BCEWithLogitsLoss", "unit"),
        Case("CrossEntropyLoss", "indices", {"label_smoothing": 0.1}),
    ):
        with pytest.raises(AssertionError):
            test_bit_identical_with_torch_nn(case, "mean", torch.float64)
        with pytest.raises(AssertionError):
            test_formula_and_second_derivative(case, "mean")


def test_logits_may_be_edited_after_the_loss() -> None:
    """As in PyTorch, which keeps log p and not the logits; bit-exact."""
    torch.manual_seed(8)
    o, y = torch.randn(5, 3), torch.randint(0, 3, (5,))
    found = []
    for package in (manualbp, nn):
        leaf = o.clone().requires_grad_()
        logits = leaf * 1
        cost = package.CrossEntropyLoss()(logits, y)
        logits.detach().masked_fill_(logits > 0, -1e9)
        cost.backward()
        found.append(leaf.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_script_and_trace(case: Case) -> None:
    """TorchScript and fx see torch.nn's own functions; bit-exact."""
    torch.manual_seed(9)
    o, y = torch.randn(5, 3), case.make_target((5, 3), torch.float32)
    criterion = case.build(manualbp, "mean", 3, torch.float32)
    expected = case.build(nn, "mean", 3, torch.float32)(o, y)
    assert torch.equal(torch.jit.script(criterion)(o, y), expected)
    assert torch.equal(torch.fx.symbolic_trace(criterion)(o, y), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(criterion, backend="eager", fullgraph=True)(o, y), expected)


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_editing_class_weights_between_the_derivatives_raises(name: str) -> None:
    w = torch.tensor([1.0, 2.0, 3.0])
    o, y = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3)
    (g,) = torch.autograd.grad(manualbp.BCEWithLogitsLoss(**{name: w})(o, y), o, create_graph=True)
    w.mul_(10)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(g.pow(2).sum(), o)


@pytest.mark.parametrize("criterion", [nn.HuberLoss, nn.SmoothL1Loss])
def test_third_order_at_the_kink(criterion: type[nn.Module]) -> None:
    """Where |e| is exactly delta, like autograd; bit-exact."""
    found = []
    for kind in (getattr(manualbp, criterion.__name__), criterion):
        o = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
        v = torch.ones(3, dtype=torch.float64, requires_grad=True)
        cost = kind(reduction="none")(o, torch.zeros_like(o))
        (g,) = torch.autograd.grad(cost, o, v, create_graph=True)
        (gv,) = torch.autograd.grad(g, v, torch.ones_like(g), create_graph=True)
        found.append(torch.autograd.grad(gv.sum(), o)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("criterion", [nn.HuberLoss, nn.SmoothL1Loss])
def test_second_order_at_the_kink(criterion: type[nn.Module]) -> None:
    """Where |e| is exactly delta, like autograd; bit-exact."""
    found = []
    for kind in (getattr(manualbp, criterion.__name__), criterion):
        o = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
        cost = kind(reduction="sum")(o, torch.zeros_like(o))
        (g,) = torch.autograd.grad(cost, o, create_graph=True)
        found.append(torch.autograd.grad(g.sum(), o)[0])
    assert torch.equal(*found)


def test_counting_weighted_samples_reads_no_number_off_a_gpu() -> None:
    """Meta tensors have none: where it goes through, a CUDA graph can capture it. fp64: 1e-14."""
    torch.manual_seed(0)
    weight, y = torch.rand(5, dtype=torch.float64), torch.randint(5, (40,))
    weight[2] = torch.nan  # of a class that is ignored
    counted = CrossEntropy(weight=weight, ignore_index=2).count(torch.empty(40, 5), y)
    elsewhere = CrossEntropy(weight=weight.to("meta"), ignore_index=2)
    found = elsewhere.count(torch.empty(40, 5, device="meta"), y.to("meta"))
    assert isinstance(found, torch.Tensor) and found.shape == () and found.is_meta
    kept = y != 2
    expression = weight[y.where(kept, 0)].where(kept, 0).sum()
    torch.testing.assert_close(torch.as_tensor(counted), expression, rtol=1e-14, atol=0)
