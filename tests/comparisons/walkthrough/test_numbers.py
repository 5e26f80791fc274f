"""Every number of the article's networks and of Mazur's, in three arms."""

from __future__ import annotations

import pytest

import manualbp
from comparisons.walkthrough import trace
from comparisons.walkthrough.examples import CHAIN, EXAMPLES, MAZUR, SEVEN_NODES, Example
from comparisons.walkthrough.numbers import Number, numbers
from manualbp.maths import activations


def found_in(e: Example) -> dict[str, Number]:
    arms = (trace.by_numpy(e), trace.by_hand(e), trace.by_autograd(e))
    return {number.name: number for number in numbers(e, *arms)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_three_arms_agree_on_every_number(example: Example) -> None:
    """1e-14, see numbers.TOLERANCE."""
    found = found_in(example)
    assert all(number.agrees for number in found.values())
    # Per node z, a, delta; C; per weight and bias a gradient and an update.
    nodes = sum(len(w) for w in example.network.weights)
    weights = sum(w.size for w in example.network.weights)
    biases = sum(len(b) for b in example.network.biases if b is not None)
    assert len(found) == 3 * nodes + 1 + 2 * (weights + biases)


def test_mazurs_figures() -> None:
    """To the last published digit, each arm by itself."""
    published = {
        "w_31": 0.149780716, "w_32": 0.19956143, "w_41": 0.24975114, "w_42": 0.29950229,
        "w_53": 0.35891648, "w_54": 0.408666186, "w_63": 0.511301270, "w_64": 0.561370121,
    }  # fmt: skip
    found = found_in(MAZUR)
    for name, value in published.items():
        for arm in found[f"new {name}"][2:]:
            assert arm == pytest.approx(value, abs=5.1e-9)
    for arm in found["C"][2:]:
        assert arm == pytest.approx(0.298371109, abs=5.1e-10)
    assert found["new b_3"].by_hand == 0.35  # biases stay


def test_formulas_are_the_articles() -> None:
    found = found_in(SEVEN_NODES)
    assert found["z_3"].formula == "w_31 a_1 + w_32 a_2 + b_3"
    assert found["delta_3"].formula == "(delta_5 w_53 + delta_6 w_63) f'(z_3)"
    assert found_in(CHAIN)["z_4"].formula == "w_43 a_3"  # no bias at the output


def test_who_computes_which_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand through our Function, loss and update; autograd through none of them."""
    called = []

    def watch(owner: type, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, **k: called.append(owner.__name__) or original(*a, **k)
        )

    watch(manualbp.Sequential, "forward")
    watch(manualbp.MSELoss, "forward")
    watch(manualbp.GradientDescent, "step")
    watch(activations.Sigmoid, "derivative")  # delta by the written formula
    trace.by_autograd(MAZUR)
    assert called == []
    trace.by_hand(MAZUR)
    assert set(called) == {"Sequential", "MSELoss", "GradientDescent", "Sigmoid"}
