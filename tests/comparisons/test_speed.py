"""The speed table: who is timed, in which order, and what is made of the times."""

from __future__ import annotations

import pytest
import torch

from comparisons import speed
from comparisons.__main__ import main
from comparisons.speed import AUTOGRAD, MANUAL, ROWS, Row


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
    times = {AUTOGRAD: [0.002, 0.004, 0.006], MANUAL: [0.001, 0.001, 0.012]}
    assert speed.cells(times) == ["4.000", "1.000", "2.00", "0.50 to 4.00"]


def test_rows_have_known_steps_and_both_orders() -> None:
    assert {row.step for row in ROWS} == set(speed.STEPS)
    assert len(set(ROWS)) == len(ROWS)


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROWS", (Row("Laplacian", (2, 4, 1), 8, "silu"),))
    monkeypatch.setattr(speed, "measure", lambda arms, *_: {name: [1.0, 1.0] for name in arms})
    assert main(["speed", "--quick", "--step", "Laplacian"]) == 0
    printed = capsys.readouterr().out
    assert "2-4-1" in printed and "1.00 to 1.00" in printed and "5 interleaved rounds" in printed


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--step", "laplace"]) == 2
    assert "did you mean Laplacian?" in capsys.readouterr().err
