"""Reports and tables in Markdown."""

from __future__ import annotations

import markdown

from manualbp.parity.record import Check, GradientReport
from manualbp.parity.reports.markdown import markdown_report, markdown_table
from tests.parity.samples import sample_gradient_report, tensor


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
