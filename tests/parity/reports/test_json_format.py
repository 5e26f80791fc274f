"""JSON reads back equal, and what is no report is refused."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from manualbp.parity.gradients import compare_gradients
from manualbp.parity.record import Check, GradientReport
from manualbp.parity.reports.json_format import from_json, to_json
from manualbp.parity.reports.page import explain
from manualbp.parity.training_record import TrainingReport
from tests.parity.samples import sample_gradient_report, sample_training_report, tensor

VERDICTS = ("agree", "DIFFER", "NO POWER")
EVERY = [make(verdict) for make in (sample_gradient_report, sample_training_report)
         for verdict in VERDICTS]  # fmt: skip
Report = GradientReport | TrainingReport


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("report", EVERY, ids=lambda r: f"{type(r).__name__} {r.verdict}")
def test_json_reads_back_equal(report: Report) -> None:
    """Bit-exact: repr of a float reads back to the same number."""
    text = to_json(report)
    content = json.loads(text, parse_constant=no_constant)
    assert content["schema_version"] == 1 and content["verdict"] == report.verdict
    assert content["versions"]["torch"] == torch.__version__
    back = from_json(text)
    assert back == report and back.verdict == report.verdict
    assert to_json(back) == text


def test_json_of_nan_infinity_and_signed_zero() -> None:
    odd = replace(tensor("w", (1,), 0.5), max_abs=-math.inf, max_rel=math.nan, allowed=-0.0)
    report = GradientReport("a", "b", (Check("backward", 0, (odd,)),))
    (back,) = from_json(to_json(report)).checks[0].tensors  # type: ignore[union-attr]
    assert back.max_abs == -math.inf and math.isnan(back.max_rel)
    assert math.copysign(1, back.allowed) == -1 and back.dtype is torch.float32


def test_a_real_report_reads_back() -> None:
    """What the harness fills in, and not only by hand: a NaN, a missing tensor, two orders."""
    reference = nn.Linear(2, 3)
    wrong = copy.deepcopy(reference)
    wrong.bias.register_hook(lambda gradient: gradient * math.nan)
    report = compare_gradients(
        wrong, reference, torch.ones(4, 2), seeds=(0,), also=("second_order",), power=False
    )
    assert report.verdict == "DIFFER"
    text = to_json(report)
    json.loads(text, parse_constant=no_constant)
    back = from_json(text)
    assert to_json(back) == text and explain(back) == explain(report)


def edited(change: Any) -> str:
    content = json.loads(to_json(sample_gradient_report()))
    change(content)
    return json.dumps(content)


def uneven(kind: str, tag: str, field: str) -> str:
    content = json.loads(to_json(sample_training_report()))
    content["report"]["runs"][0][kind][tag][field].pop()
    return json.dumps(content)


@pytest.mark.slow
def test_damaged_json_is_refused_or_shown() -> None:
    """Other values in 400 places, and 400 flipped bits: a ValueError, or a report like any."""
    draw, odd = random.Random(0), [None, True, -1, 1.5, "", "inf", [], {}, [[]], 10**400, "\ud800"]
    for whole in (sample_gradient_report(), sample_training_report(steps=5)):
        text = to_json(whole)
        for _ in range(400):
            content = json.loads(text)
            place, key = draw.choice(list(places(content)))
            place[key] = draw.choice(odd)
            read(json.dumps(content))
            flipped = bytearray(text.encode())
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
            read(bytes(flipped))


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from places(content[key])


def read(text: Any) -> None:
    try:
        report = from_json(text)
    except ValueError:
        return
    assert explain(report) and to_json(report)


@pytest.mark.parametrize("depth", range(900, 1010))
def test_what_is_nested_too_deeply_is_refused(depth: int) -> None:
    """About where Python's recursion ends: before, in and after reading."""
    head = '{"schema": "manualbp.parity.report", "schema_version": 1, "kind": "GradientReport", '
    for text in ("%s", '{"schema": %s}', head + '"report": {"candidate": %s, "checks": []}}'):
        with pytest.raises(ValueError):
            from_json(text % ("[" * depth + "]" * depth))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON that to_json wrote"),
        ("[1]", "with schema 'manualbp.parity.report', got"),
        (edited(lambda c: c.update(schema_version=2)), "schema version 1, got 2; read it with"),
        (edited(lambda c: c.update(kind="Other")), "kind GradientReport or TrainingReport"),
        (edited(lambda c: c["report"].pop("checks")), "report has no checks"),
        (edited(lambda c: c["report"].update(checks=3)), "expected list in report.checks, got 3"),
        (edited(lambda c: c["report"].update(more=3)), "unknown fields more"),
        (edited(lambda c: c["report"]["checks"][0].update(seed="0")),
         r"expected int in report.checks\[0\].seed"),
        (edited(lambda c: c["report"]["checks"][0]["tensors"][0].update(dtype="float31")),
         r"expected dtype in report.checks\[0\].tensors\[0\].dtype, got 'float31'"),
        (edited(lambda c: c["report"]["checks"][0]["tensors"][0].update(agrees=1)),
         "expected bool in"),
        (edited(lambda c: c["report"]["checks"][0]["tensors"][0].update(max_abs=True)),
         "expected int or float in"),
        (edited(lambda c: c["report"]["checks"][0]["tensors"][0].update(max_abs="big")),
         "expected int or float in"),
        (edited(lambda c: c["report"]["checks"][0]["tensors"][0].update(max_abs=10**400)),
         r"tensors\[0\].max_abs is no number of float64"),
        (edited(lambda c: c.update(kind=[])), "kind GradientReport or TrainingReport, got"),
        (to_json(sample_training_report())[:-200], "expected JSON that to_json wrote"),
        (edited(lambda c: c["report"]["checks"][0]["tensors"][0].update(dtype="_dynamo")),
         r"expected dtype in report.checks\[0\].tensors\[0\].dtype, got '_dynamo'"),
        (uneven("curves", "loss/candidate", "values"), "loss/candidate has steps without values"),
        (uneven("histograms", "differences/0.bias", "edges"), "has bins without edges"),
        ("[" * 100_000, "expected JSON that to_json wrote"),
        (b"\xff", "expected JSON that to_json wrote"),
        (None, "expected JSON that to_json wrote"),
    ],
)  # fmt: skip
def test_json_that_is_no_report_is_refused(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)
