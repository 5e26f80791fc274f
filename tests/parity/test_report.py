"""Tables for the terminal and in Markdown."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest
from rich.console import Console

from manualbp.parity.page import explain, verdict_sentence
from manualbp.parity.progress import TrainingProgress, track
from manualbp.parity.record import GradientReport, TrainingReport
from manualbp.parity.report import (
    markdown_report,
    markdown_table,
    print_report,
    print_table,
    scientific,
)
from tests.parity.samples import sample_gradient_report, sample_training_report


def test_table_prints_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title [0]", ["name", "value"], [["w[0]", "1.5"], ["b", "-"]])
    printed = capsys.readouterr().out
    assert "Title [0]" in printed and "w[0]" in printed and "1.5" in printed
    with pytest.raises(ValueError, match="row 0 must have 2 cells"):
        print_table("t", ["a", "b"], [["1"]])


def test_markdown_escapes() -> None:
    table = markdown_table(["a", "b"], [["x|y", "1"], ["z\nw", "2%"]])
    assert table.splitlines() == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 |", "| z<br>w | 2% |"]


def test_scientific() -> None:
    assert [scientific(v) for v in (None, 0.0, 1.25e-8, float("nan"))] == [
        "-",
        "0",
        "1.2e-08",
        "nan",
    ]


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"manualbp\[parity\]"):
        print_table("t", ["a"], [["1"]])
    with pytest.raises(ImportError, match=r"manualbp\[parity\]"):
        TrainingProgress(1)


def test_cells_are_plain_text_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", ["a", "b"], [["x [bold] y", "z"], ["w" * 100, "v" * 100]])
    printed = capsys.readouterr().out
    assert "[bold]" in printed and printed.count("w") == printed.count("v") == 100


def printed(report: GradientReport | TrainingReport, *, verbose: bool = False) -> str:
    text = io.StringIO()
    print_report(report, console=Console(file=text, width=132), verbose=verbose)
    return text.getvalue()


@pytest.mark.parametrize("verdict", ["agree", "DIFFER", "NO POWER"])
@pytest.mark.parametrize("make", [sample_gradient_report, sample_training_report])
def test_the_verdict_is_the_last_line(make: Any, verdict: str) -> None:
    report = make(verdict)
    last = verdict_sentence(report)
    assert last.startswith(f"{verdict}: ") and "\n" not in last
    assert printed(report).splitlines()[-1] == last
    assert explain(report).splitlines()[-1] == last
    assert f"**{verdict}: " in markdown_report(report)


def test_every_offender_is_listed_the_first_one_first() -> None:
    text = printed(sample_gradient_report())
    places = [text.index(words) for words in (
        "1. fc2.weight.grad: 1.01 times what it should be",
        "3 of 24 elements; worst [2, 7]: got -2.48969293, expected -2.46504271 within 1.7e-05 "
        "(seed 1, the worst of 2)",
        "next: look for a factor 1.01 in the backward of fc2",
        "2. fc1.weight.grad: off everywhere",
        "3. fc1.bias.grad differs",
        "missing in the candidate, (8,) in the reference",
        "caught 12 of 12 planted faults",
        "repro/fc2.pt",
        "DIFFER: 3 of 5 tensors; look first at fc2.weight.grad",
    )]  # fmt: skip
    assert places == sorted(places)


def test_the_table_has_a_row_per_tensor_with_its_worst_seed() -> None:
    lines = printed(sample_gradient_report()).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(" ") and "x" in line}
    assert rows["fc2.weight.grad"][1:] == [
        "3x8", "1.6e-02", "1.0e-07", "4.0e-07", "3", "155605", "no", "DIFFER", "1"
    ]  # fmt: skip
    assert rows["output"][-3:] == ["yes", "agree", "0"]
    verbose = printed(sample_gradient_report(), verbose=True)
    assert verbose.count("fc2.weight.grad   3x8") == 2 and "cross_entropy | mean" in verbose


def test_power_says_what_it_saw_and_why_agreement_is_refused() -> None:
    right = printed(sample_gradient_report("agree"))
    assert (
        "caught 12 of 12 planted faults; smallest relative error seen: fc1.weight.grad 1.5e-06, "
        "fc2.weight.grad 3.0e-07"
    ) in right
    weak = printed(sample_gradient_report("NO POWER"))
    assert "caught 11 of 12 planted faults" in weak and "fc2.weight.grad none" in weak
    assert "not caught: x 1.01 in fc1.weight.grad, fc2.weight.grad" in weak
    assert "agreement is refused: 'x 1.01' is not seen in fc2.weight" in weak


def test_a_training_has_a_row_and_what_went_wrong_in_words() -> None:
    text = printed(sample_training_report())
    rows = [line.split() for line in text.splitlines() if " 60 of 60 " in line]
    assert len(rows) == 4
    assert rows[0] == [
        "sgd",
        "float32",
        "0",
        "60",
        "of",
        "60",
        "0.3",
        "2.weight",
        "-",
        "-",
        "agree",
    ]
    assert rows[3][6:] == ["11", "0.bias", "21", "21", "DIFFER"]
    assert "first wrong gradient at the reference's state: step 21, in 0.bias.grad" in text
    assert "first outside the envelope: step 21, in 0.bias, 0.bias.grad: drift 1.2e-05" in text
    stopped = sample_training_report("agree")
    stopped.interrupted, stopped.runs[3].steps = True, 40
    assert "stopped after 40 of 60 steps" in printed(stopped)
    assert printed(stopped).splitlines()[-1].startswith("NO POWER: interrupted after 220 steps")


def test_nothing_compared_is_no_agreement() -> None:
    for report in (GradientReport("a", "b", ()), TrainingReport("a", "b")):
        assert printed(report).splitlines()[-1].startswith("NO POWER: no")


def test_markdown_is_read_as_it_was_meant() -> None:
    text = markdown_report(sample_gradient_report())
    assert text.startswith("## Net \\[by hand\\] against Net\n\n**DIFFER")
    assert "| loss | cross_entropy \\| mean |" in text and "worst \\[2, 7\\]" in text


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a GradientReport or a TrainingReport, got int"):
        print_report(3)  # type: ignore[arg-type]


def test_progress_names_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no terminal nothing is drawn; what would be is right."""
    with TrainingProgress(3) as bar:
        bar.step(2.5)
        bar.step(0.125, "adam-float64-seed0")
    (task,) = bar._bars.tasks
    assert (task.completed, task.total, task.description) == (2, 3, "adam-float64-seed0")
    assert task.fields["loss"] == "0.125"
    assert list(track([1, 2], "counting")) == [1, 2]
    assert capsys.readouterr().out == ""
