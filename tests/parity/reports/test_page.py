"""What is said of a report, and that every way to show it says the same."""

from __future__ import annotations

import io
import re
from typing import Any

import markdown
import pytest
from rich.console import Console

from manualbp.parity.record import Check, GradientReport
from manualbp.parity.reports.page import explain, markdown_report, markdown_table, verdict_sentence
from manualbp.parity.reports.terminal import print_report
from manualbp.parity.training_record import First, TrainingReport
from tests.parity.samples import sample_gradient_report, sample_training_report, tensor


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
    report = sample_training_report()
    report.runs[3].forced = First(21, ("0.bias.grad",), "0.bias.grad: all of it")
    assert "state: step 21, 0.bias.grad: all of it" in printed(report)  # named once
    stopped = sample_training_report("agree")
    stopped.interrupted, stopped.runs[3].steps = True, 40
    assert "stopped after 40 of 60 steps" in printed(stopped)
    assert printed(stopped).splitlines()[-1].startswith("NO POWER: interrupted after 220 steps")


def test_nothing_compared_is_no_agreement() -> None:
    for report in (GradientReport("a", "b", ()), TrainingReport("a", "b")):
        assert printed(report).splitlines()[-1].startswith("NO POWER: no")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (sample_gradient_report(), (
            "fc2.weight.grad: 1.01 times what it should be", "3 of 24 elements; worst [2, 7]: got "
            "-2.48969293, expected -2.46504271 within 1.7e-05", "next: look for a factor 1.01",
            "fc1.weight.grad: off everywhere", "fc1.bias.grad differs", "missing in the candidate",
            "caught 12 of 12", "repro/fc2.pt")),
        (sample_gradient_report("NO POWER"), (
            "not caught: x 1.01", "agreement is refused: 'x 1.01' is not seen in fc2.weight")),
        (sample_training_report(), (
            "first wrong gradient at the reference's state: step 21, in 0.bias.grad: 3 of 8",
            "first outside the envelope: step 21", "0.bias.grad: a sum for a mean",
            "next: divide by N")),
        (sample_training_report("NO POWER"), (
            "sgd-float64-seed0: NO POWER", "agreement is refused: 'x 1.01' is not seen")),
    ],
    ids=lambda value: f"{type(value).__name__} {value.verdict}" if hasattr(value, "runs")
    or hasattr(value, "checks") else "",
)  # fmt: skip
def test_terminal_plain_text_and_markdown_say_the_same(
    report: GradientReport | TrainingReport, said: tuple[str, ...]
) -> None:
    """Every one of them has each sentence, in this order."""
    in_markdown = re.sub(r"\\(.)", r"\1", markdown_report(report))
    for text in (printed(report), explain(report), in_markdown):
        places = [text.index(words) for words in said]
        assert places == sorted(places)


def test_markdown_escapes() -> None:
    table = markdown_table(["a", "b"], [["x|y", "1"], ["z\nw", "2%"]])
    assert table.splitlines() == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 |", "| z<br>w | 2% |"]


def test_markdown_is_read_as_it_was_meant() -> None:
    text = markdown_report(sample_gradient_report())
    assert text.startswith("## Net \\[by hand\\] against Net\n\n**DIFFER")
    assert "| loss | cross\\_entropy \\| mean |" in text and "worst \\[2, 7\\]" in text


def test_markdown_shows_what_looks_like_markup() -> None:
    """In the Markdown of TensorBoard, which knows no backslash before ``<``."""
    name = "<lambda>.__w__"
    odd = GradientReport(
        "<lambda>", "b|c & d", (Check("backward", 0, (tensor(name, (2,), 0.5),)),),
        setup={"loss": "*x* `a` [z](u) \\ q | r"},
    )  # fmt: skip
    shown = markdown.markdown(markdown_report(odd), extensions=["tables"])
    assert "<h2>&lt;lambda&gt; against b|c &amp; d</h2>" in shown
    assert "<td>&lt;lambda&gt;.__w__</td>" in shown
    assert "<td>*x* `a` [z](u) \\ q | r</td>" in shown
