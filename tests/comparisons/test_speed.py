"""The speed table: who is timed, in which order, and what is made of the times."""

from __future__ import annotations

import pytest
import torch

from comparisons import speed
from comparisons.__main__ import main
from comparisons.speed import AUTOGRAD, EXACT, FAST, ONE_PASS, ROWS, Row


@pytest.mark.parametrize("step", speed.STEPS)
def test_both_arms_do_the_same_work(step: str) -> None:
    """fp32, 3 layers, up to third derivatives: relative 1e-4 of each tensor's largest."""
    torch.manual_seed(0)
    y = torch.randn(7, 1)
    x = torch.randn(7, 2)
    torch.manual_seed(1)
    model = speed.manualbp.MLP((2, 8, 8, 1), "tanh")
    twin = torch.nn.Sequential(*model)
    found = []
    for net in (model, twin):
        found.append(torch.autograd.grad(speed.STEPS[step](net, x, y), list(net.parameters())[:-1]))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_arms_start_alike_and_take_turns() -> None:
    """A clock that counts calls: one second for every call of an arm."""
    now, order = [0.0], []

    def arm(name: str, cost: float):  # type: ignore[no-untyped-def]
        def call() -> None:
            order.append(name)
            now[0] += cost

        return call

    times = speed.measure({"a": arm("a", 2.0), "b": arm("b", 1.0)}, 4, 4.0, lambda: now[0])
    assert times == {"a": [2.0] * 4, "b": [1.0] * 4}
    assert order == list("aabb") + list("aabbbbaa" * 2)


def test_cells_tell_median_ratio_and_spread() -> None:
    times = {AUTOGRAD: [0.002, 0.004, 0.006], EXACT: [0.001, 0.001, 0.012], FAST: [0.1] * 3}
    cells = speed.cells(times)
    assert cells[:4] == ["4.000", "1.000", "100.0", "-"]
    assert cells[4:] == ["2.00 ±1.75", "0.04 ±0.02", "-"]


def test_geometric_means() -> None:
    rows = [row for row in ROWS if row.step == "training"][:2]
    times = [{AUTOGRAD: [4.0], ONE_PASS: [1.0]}, {AUTOGRAD: [1.0], ONE_PASS: [1.0]}]
    assert speed.geometric_means(rows, times).endswith("geometric mean: one pass 2.00")


def test_every_arm_takes_the_same_step() -> None:
    """fp32, 3 layers, sums over 600 rows: relative 1e-4 of each tensor's largest gradient."""
    found = {}
    for name, arm in speed.arms(Row("training", (64, 128, 64, 3), 600, "tanh")).items():
        arm()
        model = arm.__closure__[1].cell_contents  # type: ignore[index]
        found[name] = [p.grad for p in model.parameters()]
    assert list(found) == [AUTOGRAD, EXACT, FAST, ONE_PASS]
    for gradients in found.values():
        for ours, theirs in zip(gradients, found[AUTOGRAD], strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_rows_have_known_steps_and_both_orders() -> None:
    assert {row.step for row in ROWS} == set(speed.STEPS)
    assert len(set(ROWS)) == len(ROWS)


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROWS", (Row("Laplacian", (2, 4, 1), 8, "silu"),))
    monkeypatch.setattr(speed, "measure", lambda arms, *_: {name: [1.0, 1.0] for name in arms})
    assert main(["speed", "--quick", "--step", "Laplacian"]) == 0
    printed = capsys.readouterr().out
    assert "2-4-1" in printed and "1.00 ±0.00" in printed
    assert "Laplacian: autograd / ours, geometric mean: exact 1.00, fast 1.00" in printed
    assert "5 interleaved rounds" in printed


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--step", "laplace"]) == 2
    assert "did you mean Laplacian?" in capsys.readouterr().err
