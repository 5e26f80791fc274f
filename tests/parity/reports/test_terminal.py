"""Reports and tables on the terminal."""

from __future__ import annotations

import builtins
import io
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from manualbp.parity.cli.progress import TrainingProgress
from manualbp.parity.record import Check, Finding, GradientReport
from manualbp.parity.reports.page import page
from manualbp.parity.reports.terminal import default_console, print_report, print_table, width_of
from manualbp.parity.reports.words import scientific
from manualbp.parity.training_record import TrainingReport
from tests.parity.samples import sample_gradient_report, sample_training_report, tensor


def test_table_prints_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title [0]", ["name", "value"], [["w[0]", "1.5"], ["b", "-"]])
    printed = capsys.readouterr().out
    assert "Title [0]" in printed and "w[0]" in printed and "1.5" in printed
    with pytest.raises(ValueError, match="row 0 must have 2 cells"):
        print_table("t", ["a", "b"], [["1"]])


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
    with pytest.raises(ImportError, match=r'in the clone: pip install -e "\.\[parity\]"$'):
        print_table("t", ["a"], [["1"]])
    with pytest.raises(ImportError, match=r'in the clone: pip install -e "\.\[parity\]"$'):
        TrainingProgress(1)
    with pytest.raises(ImportError, match=r'in the clone: pip install -e "\.\[parity\]"$'):
        print_report(sample_gradient_report())


def test_cells_are_plain_text_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", ["a", "b"], [["x [bold] y", "z"], ["w" * 100, "v" * 100]])
    printed = capsys.readouterr().out
    assert "[bold]" in printed and printed.count("w") == printed.count("v") == 100


def printed(report: GradientReport | TrainingReport, *, verbose: bool = False) -> str:
    text = io.StringIO()
    print_report(report, console=Console(file=text, width=132), verbose=verbose)
    return text.getvalue()


@pytest.mark.parametrize("width", [132, 100, 90, 80, 60, 40, 20])
@pytest.mark.parametrize("report", [sample_gradient_report(), sample_training_report()],
                         ids=["gradients", "training"])  # fmt: skip
def test_nothing_is_cut_off_on_a_narrow_terminal(report: Any, width: int) -> None:
    """Every letter of every cell is there, and no number or verdict is broken."""
    text = io.StringIO()
    print_report(report, console=Console(file=text, width=width), verbose=True)
    said = page(report, verbose=True)
    lines = text.getvalue().splitlines()
    for section in said.sections:
        assert all(f"    {line}" in lines for line in section.lines)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.getvalue() and lines[-1] == said.verdict
    table = lines[1 : lines.index("Setup")]
    for row in said.rows:
        for cell in filter(lambda cell: len(cell) <= 8 and " " not in cell, row):
            assert any(cell in re.split(r"[ ,]+", line) for line in table), cell
    assert all(len(line) <= width or " " not in line.strip() for line in table)
    if not any("\N{BOX DRAWINGS LIGHT HORIZONTAL}" in line for line in table):
        assert width <= 80
        wanted = [zip(said.columns, row, strict=True) for row in said.rows]
        cells = [", ".join(f"{c} {v}".replace("\n", " ") for c, v in row) for row in wanted]
        assert " ".join(table).split() == " ".join(cells).split()
        return
    words = set(" ".join([*said.columns, *(c for row in said.rows for c in row)]).split())
    assert {word for line in table for word in line.split() if "─" not in word} <= words
    letters = Counter("".join([*said.columns, *(c for row in said.rows for c in row)]))
    found = Counter("".join(table).replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", ""))
    for blank in " \n":
        del letters[blank], found[blank]
    assert found == letters


@pytest.mark.parametrize("width", range(40, 133, 4))
def test_no_number_and_no_verdict_is_broken(width: int) -> None:
    """The longest there are: an ULP distance of int64, ``NOT JUDGED``."""
    name = "encoder.layers.0.self_attn.in_proj_weight.grad"
    odd = replace(tensor(name, (1024, 1024), 2.0), ulp=2**63 - 1, differing=1048576, unjudged=True)
    report = GradientReport("a", "b", (Check("backward", 4294967295, (odd,)),))
    text = io.StringIO()
    print_report(report, console=Console(file=text, width=width))
    for cell in ("9223372036854775807", "1048576", "4294967295", "NOT JUDGED"):
        assert cell in text.getvalue(), cell


@pytest.mark.parametrize(
    ("columns", "width"), [(None, 132), ("0", 132), ("-3", 132), ("wide", 132), ("90", 90)]
)
def test_a_width_of_nothing_is_none(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``COLUMNS=0``, which some programs set: as if it were not set."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert default_console().width == width


def test_in_a_notebook_tables_are_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich would show an HTML block for every line, and kernels set FORCE_COLOR."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = default_console()
    console.print("[red]wide[/] " + "x" * 120)
    assert not console.is_jupyter and capsys.readouterr().out == "wide " + "x" * 120 + "\n"


def test_a_terminal_says_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for columns, width in ((None, None), ("70", None), ("0", 64)):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((64, 9)))
        assert width_of(Console(file=Screen(), force_terminal=True)) == width


def test_progress_with_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    with TrainingProgress(1, shown=False) as bar:
        bar.step(0.5)


def test_markup_in_names_is_printed_as_it_is() -> None:
    name, wrong = "[bold]w[/bold]", tensor("w", (2,), 9.0)
    finding = Finding(name, "x", "[red]off[/red]", None, "see [link=a]b[/link]")
    odd = GradientReport(
        name, "[/]", (Check("backward", 0, (replace(wrong, name=name),)),), None, (finding,),
        {"[i]k": "[u]v"},
    )  # fmt: skip
    text = printed(odd, verbose=True)
    assert "[bold]w[/bold] against [/]" in text and "[i]k" in text and "[u]v" in text
    assert f"1. {name}: [red]off[/red]" in text and "next: see [link=a]b[/link]" in text


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a GradientReport or a TrainingReport, got int"):
        print_report(3)  # type: ignore[arg-type]
