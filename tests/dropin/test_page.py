"""docs/situations.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "situations.md").read_text()


def missing(page: str) -> list[str]:
    """The tests a page names that are nowhere."""
    wrong = []
    for file, name in re.findall(r"`(test_\w+\.py)::(\w+)", page):
        tree = [node for path in TESTS.rglob(file) for node in ast.parse(path.read_text()).body]
        if name not in [node.name for node in tree if isinstance(node, ast.FunctionDef)]:
            wrong.append(f"{file}::{name}")
    return wrong


def test_named_tests_exist() -> None:
    assert len(re.findall("::test_", PAGE)) > 50 and missing(PAGE) == []


def test_every_row_names_one() -> None:
    rows = [r for r in PAGE.splitlines() if r.startswith("| ") and " --- " not in r]
    assert [r for r in rows if "::test_" not in r and not r.startswith("| situation")] == []


def test_planted_names_are_caught() -> None:
    assert missing("`test_page.py::test_nothing` `test_none.py::test_page`") != []
