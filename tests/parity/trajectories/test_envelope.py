"""The envelope's formula on numbers that can be checked by hand, each constant on both sides."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from manualbp.parity import compare_training
from manualbp.parity.record import DIFFER
from manualbp.parity.trajectories.envelope import (
    FACTOR,
    FLOOR,
    Envelope,
    PackedStep,
    limits,
    worst_first,
)
from tests.parity.training_pairs import Chunked, Reversed, Wide, batches, net, other

EPS = 2.0**-23


def test_twins_that_agree_allow_twice_their_distance() -> None:
    """E = M: limit = 2 E + floor. Exact: powers of two."""
    found = limits(np.full((5, 1), 2.0**-10), np.array([2.0**-20]))
    assert FACTOR == 2 and found.tolist() == [2.0**-9 + 2.0**-20]


def test_twins_that_spread_allow_as_much_more() -> None:
    """E / M = 8, the last being far out: limit = 2 E 8 + floor."""
    farthest = np.array([[1.0], [1.0], [1.0], [1.0], [8.0]])
    assert limits(farthest, np.array([0.0])).tolist() == [2 * 8 * 8]


def test_twins_that_stand_still_allow_the_floor() -> None:
    assert limits(np.zeros((5, 1)), np.array([1e-7])).tolist() == [1e-7]


def test_a_median_of_zero_is_no_spread_without_end() -> None:
    """Most twins did not move: the spread is measured by the floor, not by 0."""
    farthest = np.array([[0.0], [0.0], [0.0], [0.0], [4.0]])
    assert limits(farthest, np.array([2.0])).tolist() == [2 * 4 * (4 / 2) + 2]


def test_whole_numbers_have_no_floor() -> None:
    """Where no twin moves a count, nothing is allowed; where one does, twice its distance."""
    found = PackedStep({"count": torch.tensor(3), "mask": torch.tensor([True, False])})
    assert found.floor().tolist() == [0.0, 0.0]
    assert limits(np.zeros((5, 1)), np.array([0.0])).tolist() == [0.0]
    farthest = np.array([[0.0], [0.0], [0.0], [0.0], [4.0]])
    assert limits(farthest, np.array([0.0])).tolist() == [8.0]


def test_a_twin_that_left_for_infinity_allows_everything() -> None:
    assert limits(np.array([[1.0], [1.0], [np.inf]]), np.array([0.0])).tolist() == [np.inf]


def test_the_distance_is_a_running_maximum() -> None:
    """Twins that come together again do not take back what they have shown."""
    layout, envelope = PackedStep({"w": torch.ones(4)}), Envelope()
    first, _ = envelope.update(layout, np.array([[1.0], [2.0], [3.0]]))
    low, high = envelope.update(layout, np.array([[0.0], [0.0], [0.0]]))
    assert first.tolist() == low.tolist() == [1.0]
    assert high[0] == pytest.approx(2 * 3 * 1.5 + layout.floor()[0])


def test_no_twin_no_limit() -> None:
    low, high = Envelope().update(PackedStep({"w": torch.ones(4)}), np.zeros((0, 1)))
    assert low.tolist() == [0.0] and high.tolist() == [np.inf]


def test_the_floor_is_two_eps_of_each_tensors_own_size_and_dtype() -> None:
    found = PackedStep(
        {"a": torch.full((3,), 8.0), "b": torch.ones(2).double(), "c": torch.zeros(2)}
    )
    smallest = torch.finfo(torch.float32).smallest_normal
    assert FLOOR == 2 and found.floor().tolist() == [16 * EPS, 2.0**-51, 2 * EPS * smallest]


def test_distances() -> None:
    """rms over the elements; infinity for a NaN on one side, 0 for the same bits, NaN included."""
    nan = math.nan
    layout = PackedStep({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([nan, 1.0]),
                     "c": torch.tensor([0.0]), "d": torch.tensor([1e30])})  # fmt: skip
    apart = layout.distance(layout.pack(
        {"a": torch.tensor([3.0, 2.0]), "b": torch.tensor([nan, 1.0]), "c": torch.tensor([-0.0]),
         "d": torch.tensor([3e30])}
    ))  # fmt: skip
    assert apart[:3].tolist() == [pytest.approx(math.sqrt(2)), 0.0, 0.0]
    assert apart[3] == pytest.approx(2e30)  # squares do not overflow
    missing = layout.distance(layout.pack({"a": None, "b": torch.ones(2), "c": torch.ones(7)}))
    assert missing.tolist() == [np.inf] * 4


def test_bits() -> None:
    layout = PackedStep({"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0])})
    other = layout.pack({"a": torch.tensor([-0.0, 1.0]), "b": torch.tensor([1.0])})
    assert layout.same_bits(other).tolist() == [False, True]


def test_worst_first() -> None:
    assert worst_first(("a", "b", "c", "d"), np.array([0.9, 3.0, 1.0, 7.0])) == ["d", "b"]


@pytest.mark.slow
def test_correct_pairs_stay_inside() -> None:
    """Other orders of summation and wider sums, in 162 trainings: under 1 % false alarms."""
    wrong, count = [], 0
    nets = ((nn.Tanh, False), (nn.ReLU, False), (nn.GELU, True))
    for kind, (activation, normalized) in product((Reversed, Chunked, Wide), nets):
        reference = net(activation, normalized)
        report = compare_training(
            other(reference, kind), reference, batches(), nn.MSELoss(),
            ("sgd", "momentum", "adam"), 40, (0, 1),
            dtypes=(torch.float32, torch.bfloat16, torch.float64),
        )  # fmt: skip
        count += len(report.runs)
        wrong += [(kind.__name__, activation.__name__, run.name, run.outside, run.forced)
                  for run in report.runs if run.verdict == DIFFER]  # fmt: skip
    assert count == 162 and len(wrong) < 0.01 * count, wrong
