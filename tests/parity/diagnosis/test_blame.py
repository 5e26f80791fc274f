"""Whose fault a wrong gradient is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from manualbp.parity.diagnosis.diagnose import diagnose
from tests.parity.diagnosis.by_hand import (
    Mine,
    Rules,
    evidence_of,
    found,
    gather,
    inputs,
    network,
    slope,
)
from tests.parity.diagnosis.planted import FAULTS, B, W, only_at


def test_a_factor_that_comes_in_is_blamed_on_the_layer_it_comes_from() -> None:
    rules = only_at(1, lambda z: 3 * slope(1, z))
    findings = diagnose(evidence_of(rules))
    assert [f.tensor for f in findings] == [W, B, "0.weight.grad", "0.bias.grad", "input.grad"]
    assert {f.kind for f in findings} == {"factor"}
    assert [f.here for f in findings] == [True, True, False, False, False]
    assert "the step from layer 4 to layer 2" in findings[0].words
    assert "what arrives at layer 0 is wrong already: look at layer 2 first" in findings[2].words
    assert findings[2].next_step.startswith("mend layer 2 first")


def test_what_a_wrong_delta_does_to_other_layers_is_left_open() -> None:
    findings = found(FAULTS["no mask"][0])
    assert findings["0.weight.grad"].kind == "unknown" and findings["0.weight.grad"].here is None
    findings = found(FAULTS["no derivative"][0])
    assert findings["input.grad"].here is None
    assert "made of the same delta as 0.weight.grad" in findings["input.grad"].words


def test_the_gradient_of_the_input_alone() -> None:
    finding = found(Rules(into=lambda dx: 2 * dx))["input.grad"]
    assert finding.kind == "factor" and finding.here is True


def test_a_loss_that_sends_back_a_sum() -> None:
    """Every gradient is N times too large, as of a candidate's loss without its mean."""
    reference = network()
    candidate = Mine(*copy.deepcopy(list(reference)))
    candidate.rules = Rules(first=lambda grad: grad * len(grad))
    findings = diagnose(gather(candidate, reference, inputs(), loss=lambda o: o.square().mean()))
    assert len(findings) == 7 and findings[0].tensor == "4.weight.grad"
    for finding in findings:
        assert finding.here is False and "gradient that the loss sends back" in finding.words
    assert "a sum over the 13 rows where the reference takes a mean" in findings[0].words


@pytest.mark.parametrize("arrives", [True, False])
def test_what_was_watched_decides(arrives: bool) -> None:
    evidence = evidence_of(only_at(1, lambda z: 3 * slope(1, z)))
    findings = diagnose(replace(evidence, incoming={"4": True, "2": arrives, "0": False}))
    assert findings[0].here is arrives
    assert ("own backward" in findings[0].words) is arrives
    assert findings[2].here is False
