"""compare_gradients on pairs of modules that know nothing of the hand-written MLP."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import GradientReport, TensorReport, compare_gradients
from manualbp.parity.arms.calls import random_cotangent
from manualbp.parity.record import Check


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    ).to(dtype)


X, Y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
Y = Y[:, :2].contiguous()


class Faulty(nn.Module):
    """The reference, with its parameter gradients changed on the way out."""

    def __init__(self, reference: nn.Sequential, fault: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        for name, child in copy.deepcopy(reference).named_children():
            self.add_module(name, child)
        for name, parameter in self.named_parameters():
            parameter.register_hook(lambda g, name=name: fault(name, g))

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


def test_the_same_computation_agrees_by_the_bit() -> None:
    reference = model()
    report = compare_gradients(copy.deepcopy(reference), reference, X, nn.MSELoss(), target=Y)
    assert report.agrees and report.bit_identical
    names = [tensor.name for tensor in report.tensors]
    assert names[:3] == ["output", "loss", "input.grad"] and len(names) == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_another_order_of_summation_agrees(dtype: torch.dtype) -> None:
    """Rows of the products summed in reverse: other bits, equally right."""

    class Reversed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(-1) @ self.weight.flip(-1).t() + self.bias

    reference = model(dtype)
    other = copy.deepcopy(reference)
    for child in other.children():
        if isinstance(child, nn.Linear):
            child.__class__ = Reversed
    report = compare_gradients(other, reference, X.to(dtype), nn.MSELoss(), target=Y.to(dtype))
    assert report.agrees, report.differing


FAULTS: dict[str, Callable[[str, Tensor], Tensor]] = {
    "missing bias": lambda name, g: torch.zeros_like(g) if name == "2.bias" else g,
    "transposed": lambda name, g: g.t().contiguous() if name == "2.weight" else g,
    "sign": lambda name, g: -g if name == "0.weight" else g,
    "1 %": lambda name, g: g * 1.01 if name == "4.weight" else g,
    "1e-4": lambda name, g: g * 1.0001 if name == "4.weight" else g,
    "no mean": lambda name, g: g * len(X),
    "nan": lambda name, g: g * torch.nan if name == "4.bias" else g,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str) -> None:
    reference = model()
    report = compare_gradients(
        Faulty(reference, FAULTS[fault]), reference, X, nn.MSELoss(), target=Y
    )
    assert not report.agrees and not report.worst.agrees
    blamed = {tensor.name for tensor in report.differing}
    changed = {f"{n}.grad" for n, p in reference.named_parameters()
               if FAULTS[fault](n, g := torch.randn(p.shape)).ne(g).any()}  # fmt: skip
    assert blamed == changed


def test_an_oracle_that_is_off_is_caught() -> None:
    reference = model(torch.float64)
    o = reference(X.double())
    right = {"output": o.detach().numpy()}
    args = (copy.deepcopy(reference), reference, X.double(), nn.MSELoss())
    assert compare_gradients(*args, target=Y.double(), oracle=right).agrees
    wrong = {"output": right["output"] * (1 + 1e-11)}
    report = compare_gradients(*args, target=Y.double(), oracle=wrong)
    assert [tensor.name for tensor in report.differing] == ["output"]
    with pytest.raises(ValueError, match="the oracle names outptu"):
        compare_gradients(*args, target=Y.double(), oracle={"outptu": right["output"]})


def test_a_backward_that_forgets_its_cotangent_is_caught() -> None:
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, o, y):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(o, y)
            return (o - y).pow(2).mean()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            o, y = ctx.saved_tensors
            return 2 * (o - y) / o.numel(), None

    reference = model()
    report = compare_gradients(
        copy.deepcopy(reference),
        reference,
        X,
        nn.MSELoss(),
        target=Y,
        candidate_loss=Forgetful.apply,
    )
    assert "input.grad" in {tensor.name for tensor in report.differing}


def test_missing_gradients() -> None:
    class Cut(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    reference = model()
    cut = Cut(*copy.deepcopy(list(reference)))
    report = compare_gradients(cut, reference, X, nn.MSELoss(), target=Y)
    assert "missing in the candidate" in report.worst.reason


def test_nothing_is_changed() -> None:
    reference = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    candidate = copy.deepcopy(reference)
    before, state = copy.deepcopy(reference.state_dict()), torch.get_rng_state()
    assert compare_gradients(candidate, reference, X, nn.MSELoss(), target=Y).bit_identical
    assert torch.equal(torch.get_rng_state(), state)
    for module in (candidate, reference):
        assert all(torch.equal(v, before[name]) for name, v in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())


def test_different_parameters_are_refused() -> None:
    reference, candidate = model(), model()
    with torch.no_grad():
        candidate[2].weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"different 2\.weight; use candidate\.load_state_dict"):
        compare_gradients(candidate, reference, X, nn.MSELoss(), target=Y)


def test_a_gradient_only_the_candidate_has_is_reported() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    reference, candidate = nn.Linear(4, 2), Scaled()
    candidate.load_state_dict(reference.state_dict(), strict=False)
    report = compare_gradients(candidate, reference, X, nn.MSELoss(), target=Y)
    assert [tensor.name for tensor in report.differing] == ["scale.grad"]


def test_unused_parameters_agree() -> None:
    class Idle(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.idle = nn.Linear(2, 2)

    reference = Idle()
    assert compare_gradients(copy.deepcopy(reference), reference, X, nn.MSELoss(), target=Y).agrees


def test_an_oracle_of_another_shape_is_caught() -> None:
    reference = nn.Linear(4, 2)
    oracle = {"output": torch.zeros(6, 1).numpy()}
    candidate = copy.deepcopy(reference)
    report = compare_gradients(candidate, reference, X, nn.MSELoss(), target=Y, oracle=oracle)
    assert "the oracle is (6, 1)" in report.worst.reason


def test_inputs_are_not_edited() -> None:
    class Editing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x.data.add_(1)
            return super().forward(x)

    reference, before = Editing(4, 2), X.clone()
    compare_gradients(copy.deepcopy(reference), reference, X, nn.MSELoss(), target=Y)
    assert torch.equal(X, before)


def test_cotangents_have_both_signs_and_keep_away_from_zero() -> None:
    cotangent = random_cotangent((99,), torch.float64, 0)
    assert 0 < (cotangent < 0).sum() < 99
    assert ((cotangent.abs() >= 0.5) & (cotangent.abs() <= 1.5)).all()


def test_the_worst_tensor_differs_first_and_has_other_bits_next() -> None:
    def report(name: str, bits: bool, agrees: bool) -> TensorReport:
        return TensorReport(name, (1,), None, 0, 0, 0, 0.5, 0.5, 1.0, bits, agrees, "")

    rows = (report("a", True, True), report("b", False, True), report("c", True, False))
    assert GradientReport("c", "r", (Check("backward", 0, rows),)).worst.name == "c"
    assert GradientReport("c", "r", (Check("backward", 0, rows[:2]),)).worst.name == "b"
