"""The float64 run and the twins: what they say about rounding, on sums whose rounding is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients
from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.rounding import Rounded, nudged
from manualbp.parity.arms.runs import RUN_KINDS
from manualbp.parity.arms.subject import subject
from manualbp.parity.judge.yardstick import TWINS, Yardstick, judge_tensors
from manualbp.parity.record import NOT_JUDGED

EPS = 2.0**-23


def yardstick_of(reference: Any, *inputs: Tensor, loss: Any = None) -> Yardstick:
    call = Call.of(inputs, loss, None, 0)
    directions, arm = Directions(0), subject(reference)
    RUN_KINDS["backward"](arm, call, directions)
    return Yardstick(RUN_KINDS["backward"], arm, call, directions)


def test_the_float64_run_is_the_oracle() -> None:
    """Bit-exact: the same operators on the same numbers in float64."""
    x = torch.rand(5, 3)
    found = yardstick_of(torch.exp, x)
    assert torch.equal(found.exact["output"], x.double().exp())
    assert found.count == 0 and not found.noise["output"].any()


def test_s_is_the_size_of_the_terms_not_of_what_is_left() -> None:
    """1000 + 1 - 1000: terms of 1000 leave 1. Each of the two is off by up to 1 eps at random, and
    by half of one more since the nudged number is stored: at most 3000 eps and a few."""
    found = yardstick_of(torch.sum, torch.tensor([1000.0, 1.0, -1000.0])).extend(TWINS)
    s = float(found.sums["output"])
    assert 1000 / 3 < s < 3010 and float(found.exact["output"]) == 1


def test_s_sees_what_cancels_halfway() -> None:
    """(x + 1e4) - 1e4: no nudge of x shows it, the operators' own rounding does."""
    found = yardstick_of(lambda x: (x + 1e4) - 1e4, torch.ones(50)).extend(TWINS)
    assert (found.sums["output"] > 1e3).all()
    plain = yardstick_of(lambda x: x + 1, torch.ones(50)).extend(TWINS)
    assert (plain.sums["output"] < 10).all()


def test_e_is_the_references_own_error() -> None:
    """The working twin of (x + 1e4) - 1e4 lies a rounding of 1e4 from float64, at most half an ulp
    of 2^13, 2^-11; for x + 1 it is 2^-24."""
    found = yardstick_of(lambda x: (x + 1e4) - 1e4, torch.rand(50)).extend(TWINS)
    noise = found.noise["output"]
    assert (noise <= 2.0**-11).all() and noise.max() > 2.0**-12 and noise.mean() > 2.0**-14
    plain = yardstick_of(lambda x: x + 1, torch.rand(50)).extend(TWINS)
    assert (plain.noise["output"] <= 2.0**-23).all()


def test_limits_only_grow_with_more_twins() -> None:
    found = yardstick_of(torch.tanh, torch.randn(40)).extend(2)
    sums, noise = dict(found.sums), {n: v.clone() for n, v in found.noise.items()}
    found.extend(TWINS)
    assert all(
        (found.sums[n] >= sums[n]).all() and (found.noise[n] >= noise[n]).all() for n in sums
    )
    assert found.count == TWINS and found.extend(3).count == TWINS


def test_drawn_at_once_or_one_by_one_is_the_same() -> None:
    """Bit-exact: what two twins said stays true when nine are asked."""
    x = torch.randn(40)
    once = yardstick_of(torch.tanh, x).extend(TWINS)
    step = yardstick_of(torch.tanh, x).extend(2).extend(5).extend(TWINS)
    assert all(torch.equal(once.sums[n], step.sums[n]) for n in once.sums)


def test_every_operator_is_rounded_but_no_view_and_no_random_number() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(4, 4)
    with Rounded(EPS * 100, generator):
        assert torch.equal(x.t()[1:].unsqueeze(0), x[None, 1:])
        torch.manual_seed(3)
        drawn = torch.rand(5)
        y = x * 1.0
        count = x.sum(dtype=torch.int64)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(5)) and count == 16
    assert not torch.equal(y, x) and (y - x).abs().max() <= 100 * EPS * 1.01


def test_nudges_are_relative_and_of_either_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.full((1000,), 1e-20).double()
    apart = (nudged(x, EPS, generator) - x) / x
    assert apart.abs().max() <= EPS and (apart < 0).any() and (apart > 0).any()
    assert not nudged(torch.zeros(3), EPS, generator).any()


def test_a_reference_without_a_float64_run_is_refused() -> None:
    weight = torch.randn(3, 3)
    with pytest.raises(ValueError, match=r"also runs in float64.*make every tensor it reads"):
        yardstick_of(lambda x: x @ weight, torch.randn(2, 3))


def test_the_reference_is_only_read() -> None:
    """Bit-exact, BatchNorm's running statistics included."""
    reference = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    arm, call, directions = (
        subject(reference),
        Call.of(torch.randn(5, 3), None, None, 0),
        Directions(0),
    )
    RUN_KINDS["backward"](arm, call, directions)
    found = Yardstick(RUN_KINDS["backward"], arm, call, directions)
    before = {n: v.clone() for n, v in reference.state_dict().items()}
    found.extend(3)
    assert all(torch.equal(v, before[n]) for n, v in reference.state_dict().items())


def test_judge_names_what_either_arm_has() -> None:
    found = yardstick_of(torch.exp, x := torch.rand(3)).extend(TWINS)
    theirs = {"output": x.exp(), "input.grad": None}
    reports = judge_tensors({"output": x.exp(), "extra.grad": x}, theirs, found)
    assert [(r.name, r.agrees) for r in reports] == [
        ("output", True), ("input.grad", True), ("extra.grad", False)
    ]  # fmt: skip


def test_a_twin_that_overflows_says_nothing() -> None:
    """The largest x whose exp is finite in float32: nudged up it is not, and no limit may be."""
    x = torch.tensor(torch.finfo(torch.float32).max).log()
    while x.exp().isinf():
        x = torch.nextafter(x, torch.tensor(0.0))
    found = yardstick_of(torch.exp, x.reshape(1)).extend(TWINS)
    assert (x * (1 + EPS)).exp().isinf()
    assert all(v.isfinite().all() for v in (*found.sums.values(), *found.noise.values()))


def test_a_reference_with_random_numbers_of_its_own_is_no_judge() -> None:
    own = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return x * torch.rand(x.shape, generator=own, dtype=x.dtype)

    def seeded(x: Tensor) -> Tensor:
        return x * torch.rand(x.shape, dtype=x.dtype)

    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    report = compare_gradients(noisy, noisy, x)
    assert report.verdict == NOT_JUDGED and "random numbers of its own" in report.tensors[0].reason
    assert compare_gradients(seeded, seeded, x).agrees


def test_a_candidate_that_is_not_defined_for_other_inputs_is_measured_all_the_same() -> None:
    """Power and situations change the inputs, and a Cholesky factor may not exist there."""
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert compare_gradients(torch.linalg.cholesky, torch.linalg.cholesky, x @ x.T + 4).agrees
