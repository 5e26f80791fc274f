"""The README's tables of speed are those of the record that it links to."""

from __future__ import annotations

from pathlib import Path

import pytest

from comparisons.speed import readme, record
from tests.comparisons.speed.test_results import CELLS

README = readme.README.read_text()


def test_the_readme_says_what_was_measured() -> None:
    """Else: ``python -m comparisons.speed.readme``."""
    results = record.from_record(record.read(readme.RECORD))
    assert readme.updated(README, results) == README


def test_the_record_that_is_linked_is_this_one() -> None:
    folder = readme.RECORD.parent.relative_to(readme.ROOT)
    links = [f"{folder}/rows.png", f"{folder}/speed.md"]
    assert all(f"({link})" in README and Path(readme.ROOT / link).exists() for link in links)


def test_another_figure_is_noticed() -> None:
    results = record.from_record(record.read(readme.RECORD))
    inside = readme.text(results)
    assert inside in README and readme.updated(README, CELLS) != README
    (number,) = [cell for cell in inside.split(" | ") if "." in cell][:1]
    changed = README.replace(inside, inside.replace(number, "99.9", 1))
    assert changed != README and readme.updated(changed, results) == README


@pytest.mark.parametrize("text", ["", 2 * f"{readme.BEGIN}\n\nx\n\n{readme.END}\n"])
def test_a_readme_without_its_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one place between"):
        readme.updated(text, CELLS)


def test_the_rest_stays() -> None:
    before = f"a\n{readme.BEGIN}\n\nold\n\n{readme.END}\nb\n"
    after = readme.updated(before, CELLS)
    assert after.startswith(f"a\n{readme.BEGIN}\n\n| step | widths |") and after.endswith("\nb\n")
    assert "old" not in after and "| worst cell | which is |" in after
