"""The README's examples print what it says they print."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=["drop-in", "convert", "harness"])
def test_example(code: str, printed: str) -> None:
    out = io.StringIO()
    lines = code.splitlines(keepends=True)
    linecache.cache["<readme>"] = (len(code), None, lines, "<readme>")  # for who reads its source
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<readme>", "exec"), {"__name__": "readme"})
    assert out.getvalue() == printed


def test_number_of_cases() -> None:
    from comparisons.gradients import CASES

    assert f"| {len(CASES)} networks and losses" in README
