"""The examples of the README and of the pages in docs print what is said that they print."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL)
# Code, and what it prints where something follows that says so.
STEP = re.compile(r"```(python|console)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
FILE = re.compile(r"# (\w+\.py)")


def printed_by(code: str, name: str, space: dict[str, Any]) -> str:
    out = io.StringIO()
    lines = code.splitlines(keepends=True)
    linecache.cache[name] = (len(code), None, lines, name)  # for who reads its source
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), space)
    return out.getvalue()


@pytest.mark.parametrize(
    ("code", "printed"), EXAMPLES, ids=["drop-in", "fused", "convert", "harness"]
)
def test_example(code: str, printed: str) -> None:
    assert printed_by(code, "<readme>", {"__name__": "readme"}) == printed


def without_numbers(text: str) -> list[list[str]]:
    """Words alone: digits of rounding, and which bits are equal, are the processor's."""
    lines = (re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", line) for line in text.splitlines())
    return [["#" if word in ("yes", "no") else word for word in re.sub("─+", "─", line).split()]
            for line in lines]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("page", "written"), [("parity", "test_norm.py"), ("derivatives", None),
                                               ("what-tests-miss", "test_kernel.py")])  # fmt: skip
def test_page(
    page: str, written: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks in their order, in one folder; those that name a file are written there.

    DeepXDE's program on the page of derivatives runs in tests/clients.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "132")  # of its tables
    space: dict[str, Any] = {"__name__": "page"}
    for kind, code, printed in STEP.findall((ROOT / "docs" / f"{page}.md").read_text()):
        if file := FILE.match(code):
            with open(file[1], "a") as opened:
                opened.write(f"{code}\n\n")
            monkeypatch.delitem(sys.modules, Path(file[1]).stem, raising=False)
            continue
        if kind == "console":
            command = [sys.executable, *shlex.split(code.removeprefix("$ "))[1:]]
            got = subprocess.run(command, capture_output=True, text=True).stdout
        else:
            got = printed_by(code, "<page>", space)
        assert without_numbers(got) == without_numbers(printed), f"{code}\nprints\n{got}"
    if written is None:
        return
    test = subprocess.run([sys.executable, "-m", "pytest", "-q", written],
                          capture_output=True, text=True)  # fmt: skip
    assert test.returncode == 0, test.stdout


def test_formulas_stand_beside_their_code() -> None:
    """Each cell of code in the tables of equations is in maths/taylor.py."""
    page = (ROOT / "docs" / "derivatives.md").read_text()
    tables = page.partition("## The equations")[2].partition("\n## ")[0]
    cells = re.findall(r"\| `(.+)` \|$", tables, re.MULTILINE)
    source = (ROOT / "manualbp" / "maths" / "taylor.py").read_text()
    assert len(cells) == 15 and [cell for cell in cells if cell not in source] == []


def test_words_are_compared_and_numbers_are_not() -> None:
    said = without_numbers("input.grad   8x6   1.4e+00   no   DIFFER")
    assert said == without_numbers("input.grad 8x6 0.3 yes DIFFER")
    for other in ("input.grad 8x6 0.3 yes agree", "input.grad 8x6 yes DIFFER", ""):
        assert said != without_numbers(other)


def test_number_of_cases() -> None:
    from comparisons.gradients.cases import CASES

    assert f"| {len(CASES)} networks and losses" in README
