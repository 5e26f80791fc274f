"""Reports and tables on the terminal, by rich."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manualbp.parity.record import AGREE, DIFFER, NO_POWER, NOT_JUDGED
from manualbp.parity.reports.page import page
from manualbp.parity.reports.words import numeric_columns
from manualbp.parity.training_record import Report
from manualbp.parity.versions import INSTALL

if TYPE_CHECKING:
    from rich.console import Console

# Width of a table in a file or a pipe: no terminal says how wide it is.
PIPE_WIDTH = 132
# The width of cells that never fold, in a table that is too wide.
SHORT = 10
# Only cells with a verdict are coloured, so that they are seen.
STYLES = {AGREE: "green", DIFFER: "bold red", NO_POWER: "bold yellow",
          NOT_JUDGED: "bold yellow"}  # fmt: skip


def print_report(report: Report, *, console: Console | None = None, verbose: bool = False) -> None:
    """Print a table, every finding in words, power, and the verdict as the last line.

    Args:
        report: what compare_gradients or compare_training returned.
        console: where to; standard output by default.
        verbose: every seed of every tensor, every planted fault, and what was run.

    Raises:
        TypeError: it is no report.
        ImportError: rich is not installed.
    """
    said = page(report, verbose=verbose)
    console = console or default_console()
    from rich.text import Text

    print_table(said.title, said.columns, said.rows, console=console)
    if said.setup:
        print_table("Setup", ["what", "value"], list(said.setup.items()), console=console)
    for section in said.sections:
        console.print(Text(section.heading, style="bold"), soft_wrap=True)
        for line in section.lines:
            console.print(Text(f"    {line}"), soft_wrap=True)
        console.print()
    console.print(Text(said.verdict, style=STYLES[report.verdict]), soft_wrap=True)


def default_console() -> Console:
    """The console of standard output; in a pipe or a notebook ``PIPE_WIDTH`` columns wide.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError(f"tables on a terminal need rich; {INSTALL}") from error

    class Output(Console):
        def on_broken_pipe(self) -> None:  # rich would end with exit code 1, which means DIFFER
            raise BrokenPipeError

    console = Output(highlight=False)
    if console.is_jupyter:  # as text: else every line is a block of HTML, 115 columns wide
        return Output(width=PIPE_WIDTH, file=sys.stdout, color_system=None, force_jupyter=False)
    width = width_of(console)
    return console if width is None else Output(highlight=False, width=width, file=sys.stdout)


def width_of(console: Console) -> int | None:
    """How wide to make it; None where rich knows: a terminal, or a useful ``COLUMNS``."""
    columns = os.environ.get("COLUMNS")
    useful = columns is not None and columns.isdecimal() and int(columns) > 0
    if useful or (console.is_terminal and columns is None):
        return None
    # COLUMNS=0, as some programs set it, would leave room for nothing.
    return shutil.get_terminal_size().columns if console.is_terminal else PIPE_WIDTH


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    console: Console | None = None,
) -> None:
    """Print one table: numbers to the right, nothing is cut off.

    In a table that is too wide, headings and texts fold between words. Where even that is too wide,
    each row is a text of its own, ``column value, column value``, that folds between words. Cells
    are plain text: square brackets are printed, not read as markup. A line break in a column name
    breaks the heading.

    Raises:
        ValueError: a row has another length than ``columns``.
        ImportError: rich is not installed.
    """
    numeric = numeric_columns(columns, rows)
    console = console or default_console()
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(title, style="bold"), soft_wrap=True)  # its own width, not the table's
    widths = _widths(columns, rows, numeric, console.width)
    if widths is None:
        for row in rows:
            pairs = zip(columns, row, strict=True)
            line = ", ".join(f"{column} {cell}".replace("\n", " ") for column, cell in pairs)
            text = textwrap.fill(line, console.width, initial_indent="  ", subsequent_indent="    ",
                                 break_long_words=False, break_on_hyphens=False)  # fmt: skip
            console.print(Text(text), soft_wrap=True)
        console.print()
        return
    padding = (0, 0) if any(widths) else (0, 1)
    table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if numeric[index] else "left",
                         overflow="fold", width=widths[index])  # fmt: skip
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console.print(table)


def _widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int
) -> list[int | None] | None:
    """Each column's width, None where it needs no limit; None instead where there is no room.

    Numbers, and cells as short as a verdict, never fold; other cells, and headings, fold between
    words.
    """
    by_column = [[row[index] for row in rows] for index in range(len(columns))]
    cells = [max(map(len, column), default=0) for column in by_column]
    heads = [max(map(len, column.split("\n"))) for column in columns]
    whole = [max(pair) for pair in zip(cells, heads, strict=True)]
    if sum(whole) + 3 * len(whole) <= width:
        return [None] * len(whole)
    if sum(whole) + len(whole) + 1 <= width:  # without room around the cells
        return list(whole)
    words = [_longest_word(column) for column in by_column]
    least = [
        max(cell if number or cell <= SHORT else word, _longest_word([head]))
        for cell, word, number, head in zip(cells, words, numeric, columns, strict=True)
    ]
    spare = width - sum(least) - len(least) - 1
    if spare < 0:
        return None
    found: list[int | None] = []
    for size, most in zip(least, whole, strict=True):
        more = min(spare, most - size)
        found.append(size + more)
        spare -= more
    return found


def _longest_word(texts: Sequence[str]) -> int:
    return max((len(word) for text in texts for word in text.split()), default=0)
