"""JUnit XML fails where a report does not agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from manualbp.parity.record import Check, GradientReport
from manualbp.parity.reports.json_format import from_json, to_json
from manualbp.parity.reports.junit import junit
from manualbp.parity.reports.write import write_junit
from manualbp.parity.training_record import TrainingReport
from tests.parity.samples import sample_gradient_report, sample_training_report, tensor

VERDICTS = ("agree", "DIFFER", "NO POWER")
EVERY = [make(verdict) for make in (sample_gradient_report, sample_training_report)
         for verdict in VERDICTS]  # fmt: skip
Report = GradientReport | TrainingReport


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
