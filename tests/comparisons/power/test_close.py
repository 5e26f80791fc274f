"""The judges that others use: each catches one fault, and is blind to another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from comparisons.power.close import CLOSE, cosine, norm, times_size, twice
from comparisons.power.correct_pairs import correct_pair
from comparisons.power.faults import FAULTS
from comparisons.power.judges import JUDGES
from comparisons.power.pair import Pair, exact, gradients
from comparisons.power.results import planted
from comparisons.power.situations.cases import SITUATED

ALL = {f"{f.subject}: {f.name}": f for f in FAULTS}
SMALL = {f.name: f for f in SITUATED}
CAUGHT_AND_MISSED = {
    "check_grads": ("MLP, tanh: dW transposed", "8 layers of sigmoid: dW missing"),
    "assert_close": ("MLP, tanh: dW transposed", "wrong sign in a row of dW"),
    "cosine": ("8 layers of sigmoid: dW of the other sign", "wrong sign in a row of dW"),
    "norm 8 %": ("8 layers of sigmoid: dW missing", "MLP, tanh: dW without the last row"),
    "times size": ("cross entropy: sum for mean", "8 layers of sigmoid: dW of the other sign"),
    "twice": ("8 layers of sigmoid: dW of the other sign", "wrong sign in a channel of dx"),
}


def with_fault(name: str) -> Pair:
    if name in SMALL:
        return SMALL[name].make(0)
    return planted(correct_pair(ALL[name].subject, 0), ALL[name], None)


@pytest.mark.parametrize("judge", CAUGHT_AND_MISSED)
def test_a_judge_catches_one_fault_and_is_blind_to_another(judge: str) -> None:
    caught, missed = CAUGHT_AND_MISSED[judge]
    assert JUDGES[judge](with_fault(caught)) and not JUDGES[judge](with_fault(missed))
    assert JUDGES["ours"](with_fault(missed))


def test_every_judge_of_the_table_is_among_them() -> None:
    assert set(CLOSE) < set(CAUGHT_AND_MISSED) < set(JUDGES)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values)


def test_the_rules_at_their_limits() -> None:
    y = numbers(3.0, 4.0)
    o = y.double()
    assert norm(y * 1.079, y, o) and not norm(y * 1.081, y, o)
    # 1 - 2 k / (1 + k^2) is (k - 1)^2 / (1 + k^2): 1e-5 at k = 1.0045
    assert cosine(y * 1.0044, y, o) and not cosine(y * 1.0046, y, o)
    # two elements: 4e-3 (1 + y)
    assert times_size(y + 0.0159, y, o) and not times_size(y + 0.0201, y, o)
    # its own error is 1e-3 at most
    near = y + numbers(1e-3, 0.0)
    assert twice(y - numbers(0.0, 1.9e-3), near, o) and not twice(y - numbers(0.0, 2.1e-3), near, o)
    # without an error of its own, what + 0.3 - 0.3 leaves: 7.5e-9 of 0.1, twice
    y = numbers(0.1)
    assert twice(y + 1.4e-8, y, y.double()) and not twice(y + 3e-8, y, y.double())


def test_nan_is_close_to_nothing_but_where_a_rule_says_so() -> None:
    """numpy.testing, and JAX with it, takes NaN on both sides for equal."""
    nan, y = numbers(float("nan")), numbers(1.0)
    for rule in (cosine, norm, times_size, twice):
        assert not rule(nan, y, y.double())
    assert times_size(nan, nan, nan.double())
    zero = numbers(0.0)
    for rule in (cosine, norm, times_size, twice):
        assert rule(zero, zero, zero.double())


def test_a_gradient_that_one_side_lacks_is_seen_by_all() -> None:
    reference, candidate = nn.Linear(2, 1), nn.Linear(2, 1)
    candidate.load_state_dict(reference.state_dict())
    candidate.forward = lambda x: nn.functional.linear(x, candidate.weight)  # type: ignore
    pair = Pair(candidate, reference, None, (((torch.ones(3, 2),), None),))
    assert all(judge(pair) for judge in CLOSE.values())


def test_float64_gradients_are_those_of_the_same_cotangents() -> None:
    """bfloat16: the cotangents are rounded before, not after."""
    reference = nn.Linear(2, 1, bias=False).bfloat16()
    pair = Pair(reference, reference, None, (((torch.ones(1, 2).bfloat16(),), None),))
    (_, found), (_, expected) = exact(pair), gradients(pair, reference)  # x is 1: the cotangent
    assert found is not None and expected is not None and found.dtype == torch.float64
    assert torch.equal(found, expected.double())
