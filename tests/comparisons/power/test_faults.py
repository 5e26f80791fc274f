"""The planted faults and who sees them: faults are faults, correct networks are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comparisons.power.correct_pairs import correct_pair
from comparisons.power.faults import FAMILIES, FAULTS, STRENGTHS, blended, effect, rms
from comparisons.power.judges import JUDGES
from comparisons.power.networks import NETWORKS
from comparisons.power.pair import Pair, gradients
from comparisons.power.results import planted

ALL = {f"{f.subject}: {f.name}": f for f in FAULTS}


def with_fault(name: str) -> Pair:
    return planted(correct_pair(ALL[name].subject, 0), ALL[name], None)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_backward_without_fault_is_left_alone_by_every_judge(name: str) -> None:
    assert [judge for judge, ask in JUDGES.items() if ask(correct_pair(name, 0))] == []


@pytest.mark.parametrize("name", ALL)
def test_every_fault_changes_a_gradient(name: str) -> None:
    """By more than rounding in float32, so that it can be seen at all."""
    assert effect(ALL[name], correct_pair(ALL[name].subject, 0, 1)) > 1e-4


def test_the_table_has_enough_faults_of_every_family_each_named_once() -> None:
    assert len(FAULTS) >= 40 and len(ALL) == len(FAULTS)
    assert {f.family for f in FAULTS} == set(FAMILIES)
    assert {f.subject for f in FAULTS} == set(NETWORKS)
    assert all(f.site in correct_pair(f.subject, 0, 1).reference.sites for f in FAULTS)


@pytest.mark.parametrize("strength", [1e-2, 1e-4])
@pytest.mark.parametrize("missing", [False, True])
def test_blending_has_the_relative_size_that_was_asked_for(strength: float, missing: bool) -> None:
    """float64: equal to 12 digits."""
    g, w = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    change = blended(g, None if missing else 1e6 * w, strength) - g
    assert rms(change) / rms(g) == pytest.approx(strength, rel=1e-10)


def test_blending_leaves_a_right_gradient_alone() -> None:
    """A fault without effect on these numbers (0 / 0) changes no bit."""
    g = torch.randn(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blended(g, g.clone(), 0.01), g)


def relative(found: Tensor | None, right: Tensor | None) -> float:
    assert found is not None and right is not None
    return rms(found - right) / rms(right)


def test_a_gross_fault_reaches_the_gradient_as_it_is_and_a_blended_one_in_part() -> None:
    """At the last site: in its own gradient, and nowhere else."""
    fault = ALL["convolution: dW: in and out channels swapped"]
    pair = correct_pair(fault.subject, 0)
    pairs = (pair, *(planted(pair, fault, strength) for strength in STRENGTHS.values()))
    right, *changed = (gradients(p, p.candidate) for p in pairs)
    names = ["x", *dict(pair.reference.named_parameters())]
    for found, strength in zip(changed, STRENGTHS.values(), strict=True):
        apart = dict(zip(names, map(relative, found, right), strict=True))
        assert {name for name, size in apart.items() if size} == {"w1"}
        size = strength or effect(fault, correct_pair("convolution", 0))
        # beside the change stands the rounding of float32, half an ulp: 6e-8 of the gradient
        assert apart["w1"] == pytest.approx(size, abs=2.0**-24, rel=1e-4)


def test_ours_sees_a_fault_where_gradients_vanish_and_absolute_tolerances_do_not() -> None:
    pair = with_fault("8 layers of sigmoid: dW of the other sign")
    assert JUDGES["ours"](pair) and not JUDGES["assert_close"](pair)


def test_a_missing_gradient_is_caught_by_all_that_look_at_gradients() -> None:
    pair = with_fault("MLP, tanh: db missing")
    assert all(JUDGES[name](pair) for name in ("ours", "gradcheck", "assert_close"))


def test_a_loss_that_turns_nan_is_caught() -> None:
    pair = correct_pair("SwiGLU", 0)
    with torch.no_grad():
        pair.candidate.get_parameter("g").fill_(float("nan"))
    assert JUDGES["loss 5 %"](pair)
