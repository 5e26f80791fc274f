"""The article's networks and Mazur's figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import manualbp
from comparisons.cli import main
from comparisons.walkthrough import command as walkthrough
from comparisons.walkthrough import trace
from comparisons.walkthrough.examples import EXAMPLES, MAZUR, Example
from manualbp import activations


def rows(e: Example) -> dict[str, walkthrough.Row]:
    arms = (trace.by_numpy(e), trace.by_hand(e), trace.by_autograd(e))
    return {row.name: row for row in walkthrough.numbers(e, *arms)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_three_arms_agree_on_every_number(example: Example) -> None:
    """1e-14, see walkthrough.TOLERANCE."""
    found = rows(example)
    assert all(row.agrees for row in found.values())
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
    found = rows(MAZUR)
    for name, value in published.items():
        for arm in found[f"new {name}"][2:]:
            assert arm == pytest.approx(value, abs=5.1e-9)
    for arm in found["C"][2:]:
        assert arm == pytest.approx(0.298371109, abs=5.1e-10)
    assert found["new b_3"].by_hand == 0.35  # biases stay


def test_formulas_are_the_articles() -> None:
    found = rows(EXAMPLES[1])
    assert found["z_3"].formula == "w_31 a_1 + w_32 a_2 + b_3"
    assert found["delta_3"].formula == "(delta_5 w_53 + delta_6 w_63) f'(z_3)"
    assert rows(EXAMPLES[0])["z_4"].formula == "w_43 a_3"  # no bias at the output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(["walkthrough", "--log-dir", str(folder), "--run-name", "w"]) == 0
    return folder / "w"


def values(path: Path, tag: str) -> list[float]:
    events = EventAccumulator(str(path), {"tensors": 0}).Reload()
    return [e.tensor_proto.float_val[0] for e in events.Tensors(tag)]


def test_costs_become_small(run: Path) -> None:
    for name in ("chain", "seven-nodes"):
        costs = values(run / name, "cost")
        assert costs[-1] < 1e-6 < costs[0]
    costs = values(run / "mazur", "cost")
    # The event file rounds to float32: 2^-25 of 0.5.
    assert costs[0] == pytest.approx(0.298371109, abs=1.6e-8)
    assert costs[1] == pytest.approx(0.291027774, abs=1.6e-8)
    assert costs[-1] == pytest.approx(3.5e-5, abs=5e-7)
    assert len(values(run / "mazur", "gradient_norm/layer_2")) == len(costs)


def test_gradients_vanish_through_sigmoids_and_not_through_relus(run: Path) -> None:
    shrink = {}
    for f in ("sigmoid", "relu"):
        norms = values(run / f"deep-{f}", "gradient_norm_by_layer")
        assert len(norms) == 12
        shrink[f] = norms[0] / norms[-1]
    assert shrink["sigmoid"] < 1e-4 and shrink["relu"] > 0.1


def test_a_planted_fault_turns_it_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(activations.Sigmoid, "derivative", lambda self, a: a)
    assert not rows(MAZUR)["delta_3"].agrees
    assert main(["walkthrough", "--log-dir", str(tmp_path), "--run-name", "w"]) == 1
    assert "something DIFFERS" in capsys.readouterr().out


def test_a_wrong_update_misses_the_published_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = rows(MAZUR)
    costs = [0.298371109, 0.291027774] + [3.5e-5] * 9999
    assert walkthrough.figures_come_out(MAZUR, list(found.values()), costs)
    assert "For the error after one step the text prints 0.291027924" in capsys.readouterr().out
    row = found["new w_64"]
    found["new w_64"] = row._replace(by_hand=row.by_hand + 2e-9)
    assert not walkthrough.figures_come_out(MAZUR, list(found.values()), costs)


def test_one_wrong_example_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = walkthrough.by_hand
    monkeypatch.setattr(
        walkthrough,
        "by_hand",
        lambda e: right(e)._replace(cost=0.0) if e.name == "chain" else right(e),
    )
    assert main(["walkthrough", "--log-dir", str(tmp_path), "--run-name", "w"]) == 1


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


def test_the_deep_networks_have_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Log:
        def scalar(self, *args: object) -> None: ...

    weights, norms = [], walkthrough.gradient_norms
    monkeypatch.setattr(
        walkthrough,
        "gradient_norms",
        lambda model: weights.append(model[0].weight.detach()) or norms(model),
    )
    walkthrough.vanishing(Log())  # type: ignore[arg-type]
    assert torch.equal(*weights)
