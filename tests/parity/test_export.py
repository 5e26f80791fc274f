"""Reports as files: JSON reads back equal, JUnit fails where they do not agree, all or nothing."""

from __future__ import annotations

import builtins
import copy
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from manualbp.parity.gradients import compare_gradients
from manualbp.parity.record import Check, GradientReport
from manualbp.parity.reports.json_format import from_json, to_json
from manualbp.parity.reports.junit import junit
from manualbp.parity.reports.markdown import markdown_report
from manualbp.parity.reports.page import explain
from manualbp.parity.reports.write import write_json, write_junit, write_markdown, write_text
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
        ("[" * 100_000, "expected JSON that to_json wrote"),
        (b"\xff", "expected JSON that to_json wrote"),
        (None, "expected JSON that to_json wrote"),
    ],
)  # fmt: skip
def test_json_that_is_no_report_is_refused(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)


@pytest.mark.parametrize("report", EVERY, ids=lambda r: f"{type(r).__name__} {r.verdict}")
def test_junit_fails_where_the_report_does_not_agree(report: Report, tmp_path: Path) -> None:
    write_junit(report, tmp_path / "junit.xml")
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    (suite,) = root
    cases, failures = suite.findall("testcase"), suite.findall("testcase/failure")
    assert int(suite.attrib["tests"]) == len(cases)
    assert int(suite.attrib["failures"]) == len(failures)
    assert bool(failures) == (not report.agrees)
    assert all(f.attrib["type"] and f.attrib["message"] and f.text for f in failures)
    if report.verdict == "NO POWER":
        assert [f.attrib["type"] for f in failures] == ["NO POWER"]
        assert "'x 1.01' is not seen in fc2.weight" in str(failures[0].text)


def test_junit_has_a_case_per_tensor_and_check() -> None:
    report = sample_gradient_report()
    suite = ElementTree.fromstring(junit(report))[0]
    cases = {c.attrib["name"]: c for c in suite.findall("testcase")}
    assert len(cases) == 2 * 5 + 1
    failed = {name: c.find("failure") for name, c in cases.items() if c.find("failure") is not None}
    assert set(failed) == {f"{n} [seed 1]" for n in ("fc2.weight.grad", "fc1.weight.grad",
                                                    "fc1.bias.grad")}  # fmt: skip
    factor = failed["fc2.weight.grad [seed 1]"]
    assert factor is not None and factor.attrib["type"] == "factor"
    assert "3 of 24 elements; worst [2, 7]" in str(factor.text) and "next: look" in str(factor.text)


def test_junit_has_a_case_per_training() -> None:
    suite = ElementTree.fromstring(junit(sample_training_report()))[0]
    failed = [c.attrib["name"] for c in suite.findall("testcase") if len(c)]
    assert failed == ["adam-float64-seed0"] and len(suite.findall("testcase")) == 5


@pytest.mark.parametrize(
    "report", [TrainingReport("a", "b"), GradientReport("a", "b", ()),
               replace(sample_training_report("agree"), interrupted=True)],
)  # fmt: skip
def test_what_was_not_run_to_its_end_does_not_pass(report: Report) -> None:
    assert report.verdict == "NO POWER"
    assert ElementTree.fromstring(junit(report)).attrib["failures"] == "1"
    assert from_json(to_json(report)) == report


def test_junit_of_what_xml_cannot_hold() -> None:
    """A candidate's error message may have colour codes, a zero, half a surrogate pair."""
    odd = replace(sample_gradient_report(), candidate="\x1b[31m<a> & \0 \ud800")
    suite = ElementTree.fromstring(junit(odd).encode())[0]
    assert suite.attrib["name"] == "\ufffd[31m<a> & \ufffd \ufffd against Net"


def test_junit_of_quotes_and_angles() -> None:
    """What XML can hold comes back as it is, in attributes and in text."""
    name = "w'\"[<b>&amp;]\n\u00e9"
    wrong = replace(tensor(name, (2,), 9.0), reason='got ]]> & "x"', worst=None)
    report = GradientReport('a"b', "c'd", (Check("backward", 0, (wrong,)),), setup={"<k>": "'v'"})
    suite = ElementTree.fromstring(junit(report).encode())[0]
    (case,) = suite.findall("testcase")
    assert case.attrib["name"] == f"{name} [seed 0]" and suite.attrib["name"] == "a\"b against c'd"
    failure = case.find("failure")
    assert failure is not None and failure.text == 'got ]]> & "x"' == failure.attrib["message"]
    assert [p.attrib["value"] for p in suite.iter("property")] == ["DIFFER", "'v'"]


def test_markdown_is_the_reports(tmp_path: Path) -> None:
    report = sample_gradient_report()
    write_markdown(report, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown_report(report)


@pytest.mark.parametrize("write", [write_json, write_junit, write_markdown])
def test_what_is_no_report_is_refused_and_nothing_is_written(write: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a GradientReport or a TrainingReport, got dict"):
        write({}, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_bad_path_is_named(tmp_path: Path) -> None:
    report = sample_gradient_report()
    with pytest.raises(FileNotFoundError, match=r"cannot write .*absent/report.json.*exists"):
        write_json(report, tmp_path / "absent" / "report.json")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}"):
        write_json(report, tmp_path)
    assert not list(tmp_path.iterdir())
    assert [p for p in tmp_path.parent.iterdir() if p.name.startswith(f".{tmp_path.name}.")] == []


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the refusal is the system's by hand; a file is no folder."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write .*file/report.json: Not a directory"):
        write_json(sample_gradient_report(), tmp_path / "file" / "report.json")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refused)
    with pytest.raises(PermissionError, match=r"cannot write .*: Permission denied; nothing was"):
        write_json(sample_gradient_report(), tmp_path / "report.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["/", "", "."])
def test_a_folder_is_no_file(path: str) -> None:
    with pytest.raises(OSError, match=r"cannot write .*give a file in a folder"):
        write_text(path, "text")


def test_links_and_pipes_stay(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "new")
    assert os.read(reader, 9) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interruption_leaves_the_old_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")

    def stopped(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(type(error)):
        write_json(sample_gradient_report(), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
