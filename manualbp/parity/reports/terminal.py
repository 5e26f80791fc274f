"""Reports and tables on the terminal, by rich."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manualbp.parity.record import AGREE, DIFFER, NO_POWER, NOT_JUDGED
from manualbp.parity.reports.page import page
from manualbp.parity.reports.words import numeric_columns
from manualbp.parity.training_record import Report

if TYPE_CHECKING:
    from rich.console import Console

# Width of a table in a file or a pipe: no terminal says how wide it is.
PIPE_WIDTH = 132
# In a table that is too wide: the width a heading folds to, and of cells that never fold.
NARROW, SHORT = 5, 10
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
    """The console of standard output; ``PIPE_WIDTH`` columns wide where that is no terminal.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError(
            'tables on a terminal need rich; install it with: pip install "manualbp[parity]"'
        ) from error
    console = Console(highlight=False)
    width = width_of(console)
    return console if width is None else Console(highlight=False, width=width, file=sys.stdout)


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
    """Print one table: numbers to the right, long cells fold, nothing is cut off.

    In a table that is too wide, headings fold before numbers do. Where even that is too wide, each
    row is a line of its own, ``column value, column value``. Cells are plain text: square brackets
    are printed, not read as markup. A line break in a column name breaks the heading.

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
            console.print(Text(f"  {line}"), soft_wrap=True)
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
    """Each column's width, None where it may fold; None instead where there is no room at all.

    Numbers, and words as short as a verdict, never fold.
    """
    heads = [max(map(len, column.split("\n"))) for column in columns]
    cells = [max((len(row[index]) for row in rows), default=0) for index in range(len(columns))]
    both = list(zip(cells, heads, strict=True))
    if sum(map(max, both)) + 3 * len(both) <= width:
        return [None] * len(both)
    if sum(map(max, both)) + len(both) + 1 <= width:  # without room around the cells
        return [max(pair) for pair in both]
    tight = [max(cell, min(head, NARROW)) for cell, head in both]
    whole = [number or size <= SHORT for number, size in zip(numeric, tight, strict=True)]
    least = [size if kept else SHORT for size, kept in zip(tight, whole, strict=True)]
    if sum(least) + len(least) + 1 > width:
        return None
    return [size if kept else None for size, kept in zip(tight, whole, strict=True)]
