"""What all tables have in common, on the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence


def numeric_columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column, whether every cell is a number, so that it stands to the right.

    Raises:
        ValueError: a row has another length than ``columns``.
    """
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"row {number} must have {len(columns)} cells, one per column, got {len(row)}"
            )
    return [
        bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))
    ]


def scientific(value: float | None) -> str:
    """A number short enough for a table cell: ``1.2e-08``, ``0``, ``nan``, ``-`` for None."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def _is_number(cell: str) -> bool:
    if cell == "-":  # the cell of a missing number
        return True
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return False
    return True
