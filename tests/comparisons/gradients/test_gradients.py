"""The gradient table: three arms agree, and every planted fault turns it red."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comparisons import machine
from comparisons.cli import main
from comparisons.gradients import command as gradients
from comparisons.gradients import tables as gradient_tables
from comparisons.gradients.command import CASES, Case
from manualbp import activations, losses, reference, reference_functions
from manualbp.activations import ACTIVATIONS
from manualbp.layers import Linear


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_case_agrees_by_the_bit(case: Case) -> None:
    """Function and autograd bit-exact; NumPy within 1e-12 of the float64 run."""
    report = gradients.check(case, seed=1, power=False)
    assert report.agrees, [(t.name, t.reason) for t in report.differing]
    assert report.bit_identical
    assert all(
        t.oracle_difference is not None and t.oracle_difference <= 1e-12 for t in report.tensors
    )


@pytest.mark.parametrize("case", CASES[::10], ids=lambda case: case.id)
def test_a_fault_would_be_seen(case: Case) -> None:
    """Every tenth; the command itself plants faults into all."""
    report = gradients.check(case, seed=1)
    assert report.agrees and report.power is not None and len(report.power.caught) >= 5


def test_cases_are_named_apart_and_cover_everything() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    for dtype in (torch.float32, torch.float64):
        seen = [case for case in CASES if case.dtype is dtype]
        assert {case.activation for case in seen} == set(ACTIVATIONS)
        assert {case.loss for case in seen} == set(gradients.LOSSES)
        assert {case.reduction for case in seen} == {"mean", "sum", "none"}
        assert {case.bias for case in seen} == {True, False}


def change_layer(
    change: Callable[..., tuple[object, object, object]],
) -> Callable[[pytest.MonkeyPatch], None]:
    original = Linear.backward

    def faulty(*args):  # type: ignore[no-untyped-def]
        h, weight, bias = original(*args)
        weight, bias, h = change(weight, bias, h)
        return h, weight, bias

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Linear, "backward", faulty)

    return plant


def replace_on(owner: object, name: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def derivative_at_a(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations.SiLU, "needs", "a")


def oracle_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.backward

    def wrong(*args: object) -> reference.Gradients:
        found = right(*args)
        return found._replace(biases=[b if b is None else b * 0 for b in found.biases])

    monkeypatch.setattr(reference, "backward", wrong)


def oracle_slope_off(monkeypatch: pytest.MonkeyPatch) -> None:
    silu = reference_functions.ACTIVATIONS["silu"]
    off = silu._replace(df=lambda z: silu.df(z) * (1 + 1e-10))
    monkeypatch.setitem(reference_functions.ACTIVATIONS, "silu", off)


SQUARE = Case("silu", "mse", torch.float64, widths=(4, 4, 4))
MISSING_MEAN = replace_on(losses.MSE, "backward", lambda self, grad, o, y: 2 * (o - y) * grad)
FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "missing bias gradient": change_layer(lambda w, b, h: (w, b * 0, h)),
    "transposed weight gradient": change_layer(lambda w, b, h: (w.t(), b, h)),
    "weight gradient x 1.0001": change_layer(lambda w, b, h: (w * 1.0001, b, h)),
    "input gradient negated": change_layer(lambda w, b, h: (w, b, h if h is None else -h)),
    "derivative at a": derivative_at_a,
    "derivative left out": replace_on(
        activations.SiLU, "backward", lambda self, delta, z, into=None: delta
    ),
    "missing 1/N": MISSING_MEAN,
    "cotangent forgotten": replace_on(
        losses.MSE, "backward", lambda self, grad, o, y: 2 * (o - y) / o.numel()
    ),
    "no bias in the oracle": oracle_without_bias,
    "a slope of the oracle x (1 + 1e-10)": oracle_slope_off,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_turn_it_red(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gradients.check(SQUARE).agrees
    FAULTS[fault](monkeypatch)
    assert not gradients.check(SQUARE).agrees


def test_exit_code_and_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["gradients", "--activation", "silu", "--loss", "cross_entropy", "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "silu/ce/fp32/5x4-6-5-3" in printed and "all agree" in printed and "DIFFER" not in printed
    )
    FAULTS["derivative left out"](monkeypatch)
    assert main([*arguments, "--verbose"]) == 1
    printed = capsys.readouterr().out
    assert "2 cases DIFFER" in printed and "0.weight.grad: " in printed


def test_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts, each case's worst, the device's own name and the date; what differs."""
    monkeypatch.setattr(machine, "name", lambda device: "NVIDIA H100 80GB HBM3")
    where = ["--device", "cpu", "--output", str(tmp_path / "new")]
    arguments = ["gradients", "--activation", "silu", "--loss", "cross_entropy", *where]
    assert main(arguments) == 0
    assert f"Written: {tmp_path / 'new' / 'gradients.json'}" in capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "gradients.json").read_text())
    page = (tmp_path / "new" / "gradients.md").read_text()
    assert written["machine"]["device"] == "NVIDIA H100 80GB HBM3" and written["machine"]["date"]
    assert page.startswith("# Gradients on NVIDIA H100 80GB HBM3\n\n- 2 cases, 18 tensors")
    assert "| date | 20" in page and "| silu/ce/fp32/5x4-6-5-3 |" in page
    assert written["agree"] and [case["bit_identical"] for case in written["cases"]] == [9, 9]
    assert all(case["caught"] > 5 and case["worst"]["max_abs"] == 0 for case in written["cases"])
    FAULTS["derivative left out"](monkeypatch)
    assert main(arguments) == 1
    again = json.loads((tmp_path / "new" / "gradients.json").read_text())
    assert not again["agree"] and "0.weight.grad" in again["cases"][0]["differing"]


def test_a_record_has_no_number_that_is_none_in_json() -> None:
    case = Case("silu", "mse", torch.float64)
    report = gradients.check(case, power=False)
    (check,) = report.checks
    broken = [replace(t, max_abs=math.nan, max_rel=math.inf, ulp=None) for t in check.tensors]
    report = replace(report, checks=(replace(check, tensors=tuple(broken)),))
    found = gradient_tables.record(gradient_tables.Verdicts([(case, report)], 0, 1.0, {}))
    worst = json.loads(json.dumps(found, allow_nan=False))["cases"][0]["worst"]
    assert (worst["max_abs"], worst["max_rel"], worst["ulp"]) == ("nan", "inf", None)


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is compared."""
    assert main(["gradients", "--output", "/dev/null/gradients"]) == 2
    assert "choose another --output" in capsys.readouterr().err


def test_filters_that_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradients", "--activation", "relu", "--loss", "huber"]) == 2
    assert "leave one filter out" in capsys.readouterr().err


def test_the_arms_are_who_they_say() -> None:
    """Autograd compared with itself would agree."""
    for case in CASES:
        e = gradients.build(case)
        packages = [type(m).__module__.split(".")[0] for m in
                    (e.manual, e.manual_loss, e.autograd, e.autograd_loss)]  # fmt: skip
        assert packages == ["manualbp", "manualbp", "torch", "torch"]
