"""What is planted, what is seen, and when a PASS is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.parity import GradientReport, assert_gradients_match, compare_gradients
from manualbp.parity.arms.calls import Call
from manualbp.parity.arms.subject import subject
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.faults import FAULTS, SMALL
from manualbp.parity.judge.power import measure_power, pooled
from manualbp.parity.power_record import Planted, PowerReport
from manualbp.parity.record import AGREE, DIFFER, NO_POWER

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(dtype)


def against_itself(reference: Any, inputs: Any, *args: Any, **options: Any) -> GradientReport:
    return compare_gradients(copy.deepcopy(reference), reference, inputs, *args, **options)


def power(report: GradientReport) -> PowerReport:
    assert report.power is not None
    return report.power


def test_what_cannot_be_planted_is_left_out() -> None:
    """A vector has no transpose, a gradient alone no partner, one row no other rows."""
    row = torch.ones(1, 4)
    report = against_itself(nn.Linear(4, 1, bias=False), row)
    tried = set(power(report).faults)
    assert not tried & {"transposed", "one row dropped"} and "sign" in tried
    assert report.verdict == AGREE


def test_everything_is_tried_and_seen_on_a_plain_network() -> None:
    found = power(against_itself(model(), X))
    assert set(found.faults) == set(FAULTS) and set(found.caught) == set(FAULTS)
    assert set(found.smallest) == {"input.grad", "0.weight.grad", "0.bias.grad",
                                   "2.weight.grad", "2.bias.grad"}  # fmt: skip
    assert not found.missing


def test_more_seeds_see_more() -> None:
    """A fault that one of two checks sees is seen; refused is what both do not see."""
    one = PowerReport(
        (Planted("sign", "w", True), Planted("noise", "w", False)), {"w": 0.5},
        ("'x 1.01' is not seen in w: 1", "b is exactly zero: 1"),
    )  # fmt: skip
    other = PowerReport(
        (Planted("sign", "w", False), Planted("noise", "w", True), Planted("sign", "b", False)),
        {"w": 0.25, "b": 0.125}, ("b is exactly zero: 2", "'sign' is not seen in b: 2"),
    )  # fmt: skip
    found = pooled(one, other)
    assert found.planted == (Planted("sign", "w", True), Planted("noise", "w", True),
                             Planted("sign", "b", False))  # fmt: skip
    assert found.smallest == {"w": 0.25, "b": 0.125}
    assert found.missing == ("b is exactly zero: 1",)


def test_inputs_of_zero_in_one_seed_of_two_are_no_reason() -> None:
    reference = nn.Linear(4, 1, bias=False)

    def verdict(*seeds: int) -> str:
        return against_itself(reference, lambda seed: X * seed, seeds=seeds).verdict

    assert verdict(0) == NO_POWER and verdict(0, 1) == AGREE


def test_nothing_is_planted_where_power_is_not_asked_for() -> None:
    report = against_itself(model(), X, power=False)
    assert report.power is None and report.verdict == AGREE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_smallest_is_where_the_verdict_turns(dtype: torch.dtype) -> None:
    """A factor 1 + 2 d is told from 1, a factor 1 + d / 2 is not; sizes follow the dtype's eps.

    g * (1 + d) is rounded to the dtype, so d itself is only sharp to an eps: 2 and 1/2 keep away.
    """
    reference = model(dtype)
    smallest = power(against_itself(reference, X.to(dtype), seeds=(0,))).smallest
    eps = torch.finfo(dtype).eps
    for path in ("0.weight", "2.bias"):
        d = smallest[f"{path}.grad"]
        assert eps / 4 < d < 200 * eps
        for factor, seen in ((2 * d, True), (d / 2, False)):
            candidate = copy.deepcopy(reference)
            candidate.get_parameter(path).register_hook(
                lambda g, factor=factor: (g.double() * (1 + factor)).to(g.dtype)
            )
            report = compare_gradients(candidate, reference, X.to(dtype), seeds=(0,))
            assert (f"{path}.grad" in {t.name for t in report.differing}) == seen


def test_smallest_in_exact_mode_is_one_bit() -> None:
    smallest = power(against_itself(model(), X, exact=True)).smallest
    # half an eps rounds to even: the next number is the nearest beyond it
    assert all(2.0**-25 <= d <= 2.0**-23 for d in smallest.values())


# Where PASS is refused.


def next_number(g: Tensor) -> Tensor:
    """Other bits, and no other number by any rule."""
    return torch.nextafter(g, torch.full_like(g, torch.inf))


def refused(report: GradientReport) -> str:
    assert report.verdict == NO_POWER and not report.agrees and not report.differing
    return "; ".join(power(report).missing)


def test_dead_units_are_refused() -> None:
    dead = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    words = refused(against_itself(dead, X))
    for name in ("input.grad", "0.weight.grad", "0.bias.grad", "2.weight.grad"):
        assert f"{name} is exactly zero" in words
    assert "2.bias.grad" not in words


def test_a_refusal_fails_a_test_with_its_reason() -> None:
    zero = torch.zeros(6, 4)
    with pytest.raises(AssertionError, match=r"(?s)2\.bias\.grad is exactly zero.*NO POWER: "):
        assert_gradients_match(model(), model(), X, cotangent=zero)
    with pytest.raises(AssertionError, match=r"(?s)24 of 24 elements.*DIFFER: "):
        assert_gradients_match(torch.sin, torch.tanh, X)
    assert assert_gradients_match(model(), model(), X).agrees


def test_dead_units_hide_a_wrong_backward_which_is_why() -> None:
    """ReLU's mask is forgotten, but no unit is alive: equal, and refused all the same."""

    class Maskless(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            z = self[0](x)
            return self[2](z + (F.relu(z) - z).detach() if z.max() > 0 else F.relu(z))

    dead = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    candidate = Maskless(*copy.deepcopy(list(dead)))
    assert compare_gradients(candidate, dead, X).verdict == DIFFER
    with torch.no_grad():
        for net in (dead, candidate):
            net[0].bias.fill_(-100.0)
    assert compare_gradients(candidate, dead, X).verdict == NO_POWER


def test_a_cotangent_of_zero_is_refused() -> None:
    words = refused(against_itself(model(), X, cotangent=torch.zeros(6, 4)))
    assert words.count("is exactly zero") == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_loss_at_its_minimum_is_refused(dtype: torch.dtype) -> None:
    reference, x = model(dtype), X.to(dtype)
    target = reference(x).detach()
    words = refused(against_itself(reference, x, nn.MSELoss(), target=target))
    assert words.count("is exactly zero") == 5 and "a loss at its minimum" in words
    target += torch.finfo(dtype).eps  # nearly: nothing but rounding is left
    candidate = copy.deepcopy(reference)
    candidate.get_parameter("2.weight").register_hook(next_number)
    words = refused(compare_gradients(candidate, reference, x, nn.MSELoss(), target=target))
    assert "is not seen in 2.weight.grad" in words
    assert "0.weight.grad" not in words  # it has the reference's bits: nothing can hide there


def test_a_gradient_that_almost_cancels_is_refused() -> None:
    """x is a large constant beside a small signal: 1 % of the difference is below rounding."""

    def difference(x: Tensor, w: Tensor) -> Tensor:
        return (x * w).sum(-1)

    def candidate(x: Tensor, w: Tensor) -> Tensor:
        w = w.clone()
        if w.requires_grad:
            w.register_hook(next_number)
        return difference(x, w)

    x = torch.full((2, 3), 1e5)
    x[1] -= 0.5  # dC/dw = x_0 - x_1
    cotangent = torch.tensor([1.0, -1.0])
    args = (candidate, difference, (x, torch.ones(3)))
    words = refused(compare_gradients(*args, cotangent=cotangent))
    assert "is not seen in input[1].grad" in words and "compare in float64" in words
    double = compare_gradients(*args, cotangent=cotangent.double(), dtype=torch.float64)
    assert double.verdict == AGREE


def test_a_gradient_that_is_zero_by_nature_is_measured_by_its_sums() -> None:
    """The bias before a BatchNorm: nothing is left of it, and nothing is refused."""
    reference = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    found = power(against_itself(reference, X))
    assert {p.fault for p in found.planted if p.tensor == "0.bias.grad"} == {
        "one element off", "noise",
    }  # fmt: skip
    assert not found.missing and 0 < found.smallest["0.bias.grad"] < 1e-3


def test_nothing_to_plant_into_is_refused() -> None:
    assert "no gradient was compared" in refused(compare_gradients(torch.detach, torch.detach, X))


def test_small_faults_are_planted_and_not_asked_for() -> None:
    """In bfloat16 half of the bits are less than what is asked for, and may stay unseen."""
    found = power(against_itself(model(torch.bfloat16), X.bfloat16()))
    assert set(SMALL) <= set(found.faults) and not found.missing


def test_the_candidate_is_measured_not_the_reference() -> None:
    """A fault is planted into the candidate's gradient; one that is NaN is left out."""
    reference, candidate = model(), model()
    candidate[0].bias.register_hook(lambda g: g * torch.nan)
    report = compare_gradients(candidate, reference, X)
    assert report.verdict == DIFFER
    assert "0.bias.grad" not in power(report).smallest and len(power(report).smallest) == 4


def test_a_fault_that_nobody_sees_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal itself, planted: a rule that sees nothing has no power."""
    reference = model()
    candidate = copy.deepcopy(reference)
    candidate[0].weight.register_hook(next_number)
    comparison = Comparison("backward", subject(candidate), subject(reference),
                            Call.of(X, None, None, 0))  # fmt: skip
    monkeypatch.setattr(comparison, "judge_of", lambda name: lambda candidate: False)
    found = measure_power(comparison)
    assert found.caught == () and all(d == float("inf") for d in found.smallest.values())
    assert any("'sign' is not seen in 0.weight.grad" in reason for reason in found.missing)
