"""The tables of speed in README.md and docs/speed.md are those of the record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comparisons.speed import pages, record
from tests.comparisons.speed.test_results import CELLS

RESULTS = record.from_record(record.read(pages.RECORD))
each_page = pytest.mark.parametrize("path", pages.PAGES, ids=lambda path: path.name)


@each_page
def test_a_page_says_what_was_measured(path: Path) -> None:
    """Else: ``python -m comparisons.speed.pages``."""
    page = path.read_text()
    assert pages.updated(page, pages.PAGES[path](RESULTS)) == page


@each_page
def test_another_figure_is_noticed(path: Path) -> None:
    page, inside = path.read_text(), pages.PAGES[path](RESULTS)
    number = re.findall(r"\d\.\d\d", inside)[0]
    changed = page.replace(inside, inside.replace(number, "99.9", 1))
    assert changed != page and pages.updated(changed, inside) == page


def test_the_means_are_those_of_the_table_in_full() -> None:
    """Counted there by another function."""
    full = pages.in_full(RESULTS)
    for line in pages.in_short(RESULTS).splitlines()[2:]:
        mean, worst = [cell.strip() for cell in line.strip("| ").split("|")][-2:]
        found = [row for row in full.splitlines() if f"| {mean} |" in row]
        assert any(f"| {worst.split()[0]} |" in row for row in found), line


@pytest.mark.parametrize("text", ["", 2 * f"{pages.BEGIN}\n\nx\n\n{pages.END}\n"])
def test_a_page_without_its_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one place between"):
        pages.updated(text, "")


def test_the_rest_stays() -> None:
    before = f"a\n{pages.BEGIN}\n\nold\n\n{pages.END}\nb\n"
    after = pages.updated(before, pages.in_full(CELLS))
    assert after.startswith(f"a\n{pages.BEGIN}\n\n| step | widths |") and after.endswith("\nb\n")
    assert "old" not in after and "| worst cell | which is |" in after


def test_a_record_without_an_arm_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a record with the arm"):
        pages.in_short([])
