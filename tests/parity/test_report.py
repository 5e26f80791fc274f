"""Tables for the terminal and in Markdown."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from manualbp.parity.report import markdown_table, print_table, scientific


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


def test_cells_are_plain_text_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", ["a", "b"], [["x [bold] y", "z"], ["w" * 100, "v" * 100]])
    printed = capsys.readouterr().out
    assert "[bold]" in printed and printed.count("w") == printed.count("v") == 100
