"""Before they are timed all arms compute the same; a planted wrong arm is left out and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from comparisons.__main__ import main
from comparisons.speed import command, floor, workloads
from comparisons.speed.arms import agreement, available, peers
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    EXACT,
    FAST,
    FUSED,
    NO_GRAPH,
    Arm,
    Computed,
    Problem,
    off_kinks,
    problem,
)
from comparisons.speed.arms.costs import COSTS
from comparisons.speed.arms.pytorch import eager_arms
from comparisons.speed.record import JSON, MARKDOWN
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import LAPLACIAN, TRAINING, Workload
from tests.comparisons.speed.arms.equal_gradients import CPU, of


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("step", COSTS)
def test_right_arms_agree(step: str, dtype: str) -> None:
    outputs = 3 if step == TRAINING else 1
    given = of(step, (4, 64, 32, outputs), 600, "tanh", dtype)
    arms = eager_arms(given)
    found, _ = peers.available(CPU)
    arms |= {name: arm for name, make in found.items() if (arm := make(given)) is not None}
    assert agreement.differing(given, arms) == {}


def test_the_yardstick_is_autograd_in_float64() -> None:
    """In parts of rows as in one: fp64, relative 1e-12."""
    for step in COSTS:
        given = of(step, (2, 8, 6, 1), 9, "tanh")
        found, whole = agreement.in_float64(given), eager_arms(given)[AUTOGRAD].computed()
        assert found.cost == pytest.approx(whole.cost, rel=1e-12)
        torch.testing.assert_close(found.gradients, whole.gradients, rtol=1e-12, atol=1e-15)


def scaled(number: int, factor: float) -> Callable[[Computed], Computed]:
    def wrong(right: Computed) -> Computed:
        gradients = list(right.gradients)
        gradients[number] = gradients[number] * factor
        return Computed(right.cost, gradients)

    return wrong


def one_row_less(right: Computed) -> Computed:
    return Computed(right.cost, [g * (599 / 600) for g in right.gradients])


WRONG: dict[str, Callable[[Computed], Computed]] = {
    "another loss": lambda right: Computed(right.cost * 1.0001, right.gradients),
    "a weight gradient of 1e-4 more": scaled(2, 1.0001),
    "a bias gradient of 1e-4 more": scaled(-1, 1.0001),
    "no bias gradient": scaled(1, 0.0),
    "a sign": scaled(0, -1.0),
    "one row forgotten": one_row_less,
    "one gradient missing": lambda right: Computed(right.cost, right.gradients[:-1]),
    "gradients transposed": lambda right: Computed(right.cost, [g.t() for g in right.gradients]),
    "NaN": scaled(0, float("nan")),
    "NaN as the loss": lambda right: Computed(float("nan"), right.gradients),
    "half precision": lambda right: Computed(
        right.cost, [g.half().float() for g in right.gradients]),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_planted_wrong_arm_is_named(fault: str) -> None:
    given = of(TRAINING, (4, 128, 64, 3), 600, "relu", "float32")
    arms = eager_arms(given)
    computed = WRONG[fault](arms[FUSED].computed())
    wrong = agreement.differing(
        given, {**arms, FUSED: replace(arms[FUSED], computed=lambda: computed)}
    )
    assert list(wrong) == [FUSED]
    assert wrong[FUSED].startswith("FusedLoss of 4-128-64-3, batch 600, float32 is ")


def test_no_row_of_a_problem_is_on_a_kink() -> None:
    """A right arm may put a z of 1e-9 on the other side of 0, which changes a gradient by 1 / N."""
    given = problem(Workload(TRAINING, (8, 256, 256, 1), 3000, "relu"), 0, CPU)
    smallest = []
    h = given.x.double()
    for f in given.model.double():
        smallest += [float(h.detach().abs().min())] if isinstance(f, nn.ReLU) else []
        h = f(h)
    assert min(smallest) > 1e-6
    assert 2900 < len(given.x.unique(dim=0)) < 3000  # few rows stand twice, for those that were


def test_a_row_on_a_kink_is_replaced() -> None:
    given = problem(Workload(TRAINING, (8, 16, 1), 50, "relu"), 0, CPU)
    with torch.no_grad():
        given.model[0].bias.zero_()
    x = given.x.clone()
    x[7] = 0  # z = 0
    found = off_kinks(given.model, x.clone())
    assert torch.equal(found[:7], x[:7]) and torch.equal(found[8:], x[8:])
    assert torch.equal(found[7], x[0])


@pytest.mark.parametrize("step", [TRAINING, LAPLACIAN])
def test_a_run_leaves_it_out_and_says_so(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, a note, no figure; the others are measured."""
    eager = eager_arms

    def planted(given: Problem) -> dict[str, Arm]:
        arms = eager(given)
        return {**arms, EXACT: eager(replace(given, y=given.y * 1.001))[EXACT]}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(available, "eager_arms", planted)
    monkeypatch.setattr(peers, "available", lambda *_: ({}, []))
    monkeypatch.setattr(workloads, "PARTS", {"rows": (Workload(step, (2, 4, 1), 8, "tanh"),)})
    monkeypatch.setattr(command, "QUICK", {"rows": Budget(0.001, 2, 2)})
    monkeypatch.setattr(floor, "SHAPES", ((16, 16, 16),))
    monkeypatch.setattr(floor, "COPIED", 2**20)
    assert main(["speed", "--quick", "--output", "out"]) == 1
    words = "DIFFERS, left out: rows: exact of 2-4-1, batch 8, float32 is "
    assert words in capsys.readouterr().out
    assert words in (tmp_path / "out" / MARKDOWN).read_text()
    written = json.loads((tmp_path / "out" / JSON).read_text())
    fused = [FUSED, NO_GRAPH] if step == TRAINING else []
    assert list(written["cells"][0]["arms"]) == [AUTOGRAD, FAST, *fused]
    assert main(["speed", "--read", "out/speed.json", "--run-name", "again"]) == 1
