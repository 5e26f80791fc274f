"""The words that every report is made of.

Whoever shows a report takes its sentences from here and from gradient_words.py and
training_words.py, so a terminal, a pull request, a CI server and TensorBoard say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from manualbp.parity.power_record import PowerReport
from manualbp.parity.record import Finding, TensorReport

# So many gradients' smallest visible errors are listed, the weakest first.
LISTED = 6


class Section(NamedTuple):
    """A heading and the lines under it."""

    heading: str
    lines: tuple[str, ...]


def next_lines(finding: Finding | None) -> tuple[str, ...]:
    """What to do next, where something is known of it."""
    return (f"next: {finding.next_step}",) if finding and finding.next_step else ()


def numbers(tensor: TensorReport) -> str:
    """What the rule saw: ``3 of 24 elements; worst [1, 0]: got -2.5, expected -2 within 1e-05``."""
    if tensor.worst is None:
        return tensor.reason
    w = tensor.worst
    seen = (
        f"{tensor.differing} of {math.prod(tensor.shape)} elements; worst {list(w.index)}: got "
        f"{w.got:.9g}, expected {w.expected:.9g} within {w.limit:.1e}"
    )
    if seen in tensor.reason or not tensor.reason:
        return tensor.reason or seen
    return f"{seen}; {tensor.reason}"


def power_lines(power: PowerReport, *, verbose: bool = False) -> tuple[str, ...]:
    """What was planted and seen, the smallest error seen, and why agreement is refused."""
    faults, caught = power.faults, power.caught
    smallest = sorted(power.smallest.items(), key=lambda item: -item[1])
    shown = smallest if verbose else smallest[:LISTED]
    listed = ", ".join(
        f"{name} {scientific(value)}" if value < math.inf else f"{name} none"
        for name, value in shown
    )
    rest = len(smallest) - len(shown)
    seen = f"; smallest relative error seen: {listed}" if listed else ""
    lines = [
        f"caught {len(caught)} of {len(faults)} planted faults{seen}"
        + (f", and less in {rest} more" if rest else "")
    ]
    for fault in faults:
        where = [p.tensor for p in power.planted if p.fault == fault and not p.caught]
        if where:
            lines.append(f"not caught: {fault} in {some(where)}")
        elif verbose:
            places = sum(p.fault == fault for p in power.planted)
            lines.append(f"caught: {fault} in {count(places, 'gradient')}")
    return (*lines, *(f"agreement is refused: {reason}" for reason in power.missing))


def some(names: Iterable[str], count: int = 4) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def wrong_in_words(tensor: TensorReport | None, finding: Finding | None) -> str:
    """The tensor's name, and what is wrong with it."""
    if finding:
        return f"{finding.tensor}: {finding.words}"
    return f"{tensor.name} differs" if tensor else ""


def count(number: int, noun: str) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def scientific(value: float | None) -> str:
    """A number short enough for a table cell: ``1.2e-08``, ``0``, ``nan``, ``-`` for None."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


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


def _is_number(cell: str) -> bool:
    if cell == "-":  # the cell of a missing number
        return True
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return False
    return True
