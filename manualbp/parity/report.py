"""Reports are data; this is where they become text: terminal tables (rich) and Markdown."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Width of a table written to a file or a pipe, where no terminal says how wide it is.
PIPE_WIDTH = 132
# Cells that carry a verdict; everything else stays uncoloured so that these stand out.
STYLES = {"agree": "green", "DIFFER": "bold red"}


def scientific(value: float | None) -> str:
    """A number short enough for a table cell: ``1.2e-08``, ``0``, ``nan``, ``-`` for None."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def default_console() -> Console:
    """The console of standard output; ``PIPE_WIDTH`` columns wide where that is no terminal.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError(
            "manualbp.parity.report needs rich; "
            'install it with: pip install "manualbp[comparisons]"'
        ) from error
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:
        console = Console(highlight=False, width=PIPE_WIDTH, file=sys.stdout)
    return console


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    console: Console | None = None,
) -> None:
    """Print one table: numbers to the right, long cells fold, nothing is cut off.

    Cells are plain text: square brackets are printed, not read as markup. A line break in a
    column name breaks the heading.

    Raises:
        ValueError: a row has another length than ``columns``.
        ImportError: rich is not installed.
    """
    _check_rows(columns, rows)
    console = console or default_console()
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console.print(Text(title, style="bold"), soft_wrap=True)  # its own width, not the table's
    console.print(table)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table in Markdown, as TensorBoard's text page and GitHub render it.

    Raises:
        ValueError: a row has another length than ``columns``.
    """
    _check_rows(columns, rows)
    aligns = [
        "---:" if rows and all(_is_number(row[index]) for row in rows) else "---"
        for index in range(len(columns))
    ]
    lines = [columns, aligns, *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _check_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"row {number} must have {len(columns)} cells, one per column, got {len(row)}"
            )


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")


def _is_number(cell: str) -> bool:
    if cell == "-":  # the cell of a missing number
        return True
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return False
    return True
