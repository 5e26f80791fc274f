"""The walkthrough as a command: its curves, its verdict, the published figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from comparisons.cli import main
from comparisons.walkthrough import command
from comparisons.walkthrough.examples import CHAIN, MAZUR, SEVEN_NODES
from manualbp.maths import activations
from tests.comparisons.walkthrough.test_numbers import found_in


def values(path: Path, tag: str) -> list[float]:
    events = EventAccumulator(str(path), {"tensors": 0}).Reload()
    return [e.tensor_proto.float_val[0] for e in events.Tensors(tag)]


def test_costs_become_small(run: Path) -> None:
    for name in ("chain", "seven-nodes"):
        costs = values(run / name, f"cost/{name}")
        assert costs[-1] < 1e-6 < costs[0]
    costs = values(run / "mazur", "cost/mazur")
    # The event file rounds to float32: 2^-25 of 0.5.
    assert costs[0] == pytest.approx(0.298371109, abs=1.6e-8)
    assert costs[1] == pytest.approx(0.291027774, abs=1.6e-8)
    assert costs[-1] == pytest.approx(3.5e-5, abs=5e-7)
    assert len(values(run / "mazur", "log10_gradient_norm/layer_2")) == len(costs)


def test_gradients_vanish_through_sigmoids_and_not_through_relus(run: Path) -> None:
    shrink = {}
    for f in ("sigmoid", "relu"):
        logs = values(run / f"deep-{f}", "2_log10_gradient_norm_by_layer")
        assert len(logs) == 12
        shrink[f] = 10.0 ** (logs[0] - logs[-1])
    assert shrink["sigmoid"] < 1e-4 and shrink["relu"] > 0.1


def test_the_page_opens_on_logarithms(run: Path) -> None:
    """The first two groups of tags, which TensorBoard opens; a cost has a chart of its own."""
    events = [EventAccumulator(str(p), {"tensors": 0}).Reload() for p in run.iterdir()]
    tags = {tag for each in events for tag in each.Tags()["tensors"]}
    assert sorted(tags)[:4] == [
        "1_log10_cost/chain", "1_log10_cost/mazur", "1_log10_cost/seven-nodes",
        "2_log10_gradient_norm_by_layer",
    ]  # fmt: skip


def test_a_planted_fault_turns_it_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "EXAMPLES", (SEVEN_NODES,))
    monkeypatch.setattr(activations.Sigmoid, "derivative", lambda self, a: a)
    assert not found_in(MAZUR)["delta_3"].agrees
    assert main(["walkthrough", "--log-dir", str(tmp_path), "--run-name", "w"]) == 1
    assert "something DIFFERS" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.html"))  # no page of numbers that differ


def test_a_wrong_update_misses_the_published_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = found_in(MAZUR)
    costs = [0.298371109, 0.291027774] + [3.5e-5] * 9999
    assert command.figures_come_out(MAZUR, list(found.values()), costs)
    assert "For the error after one step the text prints 0.291027924" in capsys.readouterr().out
    row = found["new w_64"]
    found["new w_64"] = row._replace(by_hand=row.by_hand + 2e-9)
    assert not command.figures_come_out(MAZUR, list(found.values()), costs)


def test_one_wrong_example_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "EXAMPLES", (CHAIN, SEVEN_NODES))
    right = command.by_hand
    monkeypatch.setattr(
        command,
        "by_hand",
        lambda e: right(e)._replace(cost=0.0) if e.name == "chain" else right(e),
    )
    assert main(["walkthrough", "--log-dir", str(tmp_path), "--run-name", "w"]) == 1


def test_the_deep_networks_have_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Log:
        def scalar(self, *args: object) -> None: ...

    weights, norms = [], command.gradient_norms
    monkeypatch.setattr(
        command,
        "gradient_norms",
        lambda model: weights.append(model[0].weight.detach()) or norms(model),
    )
    command.vanishing(Log())  # type: ignore[arg-type]
    assert torch.equal(*weights)
