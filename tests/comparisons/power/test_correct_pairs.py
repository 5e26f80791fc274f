"""Correct pairs: no two alike, from the seed alone, and what is said of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comparisons.power import command, correct_pairs
from comparisons.power.close import CLOSE
from comparisons.power.correct_pairs import KINDS, SCALES, Kind, PairCase, make, pair_cases
from comparisons.power.pair import Pair
from comparisons.power.results import Results, judged_pairs


def test_pairs_differ_from_one_another_and_come_from_the_seed_alone() -> None:
    cases = pair_cases(600, 0)
    assert len(set(cases)) == 600 and cases == pair_cases(600, 0) != pair_cases(600, 1)
    drawn = [(c.kind, c.dtype, make(c).batches[0][0][0]) for c in cases
             if not KINDS[c.kind].compiled]  # fmt: skip
    for i, (kind, dtype, x) in enumerate(drawn):
        alike = [
            y for other, its, y in drawn[:i] if (other, its, y.shape) == (kind, dtype, x.shape)
        ]
        assert not any(torch.equal(x, y) for y in alike), (kind, dtype)
    assert {c.dtype for c in cases} == set(SCALES)


def plainest(kinds: list[str], dtype: torch.dtype) -> Results:
    """7 rows of size 1."""
    return judged_pairs([PairCase(kind, dtype, 7, 1.0, 0) for kind in kinds], Results())


def test_plain_pairs_agree() -> None:
    scaled = [name for name, kind in KINDS.items() if kind.scaled and not kind.compiled]
    assert plainest(scaled[::4], torch.float32).false == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SCALES, ids=str)
def test_every_kind_of_pair_agrees_at_its_plainest(dtype: torch.dtype) -> None:
    names = [name for name, kind in KINDS.items() if not kind.compiled]
    assert plainest(names, dtype).false == []


def test_a_false_alarm_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: PairCase) -> Pair:
        reference, other = nn.Linear(3, 2), nn.Linear(3, 2)
        other.load_state_dict(reference.state_dict())
        for parameter in other.parameters():
            parameter.register_hook(lambda g: 2 * g)
        return Pair(other, reference, None, (((torch.randn(4, 3),), None),))

    monkeypatch.setattr(correct_pairs, "KINDS", {"doubled": Kind(wrong)})
    found = judged_pairs([PairCase("doubled", torch.float32, 4, 1.0, 0)], Results())
    assert found.alarms == dict.fromkeys(("ours", *CLOSE), 1) and not found.passes
    assert "doubled, float32, 4 rows" in found.false[0].pair
    assert "weight.grad" in command.alarms(found).rows[0][1]
