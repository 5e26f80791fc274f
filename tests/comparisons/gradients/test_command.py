"""The gradient table as a command: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comparisons import machine
from comparisons.cli import main
from comparisons.gradients import command
from comparisons.gradients.cases import Case, check
from tests.comparisons.gradients.test_cases import FAULTS


@pytest.mark.usefixtures("in_python")  # the faults are planted there
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


@pytest.mark.usefixtures("in_python")  # the faults are planted there
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
    report = check(case, power=False)
    (of_seed,) = report.checks
    broken = [replace(t, max_abs=math.nan, max_rel=math.inf, ulp=None) for t in of_seed.tensors]
    report = replace(report, checks=(replace(of_seed, tensors=tuple(broken)),))
    found = command.record(command.Verdicts([(case, report)], 0, 1.0, {}))
    worst = json.loads(json.dumps(found, allow_nan=False))["cases"][0]["worst"]
    assert (worst["max_abs"], worst["max_rel"], worst["ulp"]) == ("nan", "inf", None)


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is compared."""
    assert main(["gradients", "--output", "/dev/null/gradients"]) == 2
    assert "choose another --output" in capsys.readouterr().err


def test_filters_that_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradients", "--activation", "relu", "--loss", "huber"]) == 2
    assert "leave one filter out" in capsys.readouterr().err
