"""Every block of the README and of the site's pages runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comparisons import cli
from manualbp import __main__
from manualbp.parity.cli import arguments
from manualbp.parity.cli.options import UsageError
from tests.docs.pages import PAGES, README, ROOT, Block, blocks, run, same

TESTS = {"parity": "test_norm.py", "what-tests-miss": "test_kernel.py"}  # that pages write
QUICK = {"README", "drop-in", "fast", "equations"}
PARSED_BY: dict[str, Callable[[list[str]], Any]] = {
    "comparisons": lambda words: cli.parser(words[:1]).parse_args(words),
    "manualbp": lambda words: __main__.parser().parse_args(words),
    "manualbp.parity": arguments.parse,
}
KNOWN = ("git", "cd", "cp", "rm", "tensorboard", "torchrun", "pre-commit", "compute-sanitizer")
CODE = {"python", "console"}
WITH_CODE = [page for page in PAGES if CODE & {block.kind for block in blocks(page.read_text())}]
COMMAND_LINES = [
    line
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for block in blocks(page.read_text())
    if block.kind == "sh"
    for line in block.text.replace("\\\n", " ").splitlines()
]


def test_every_kind_of_block_is_run_or_read() -> None:
    """Code stands in fences whose kind the tests below know; commands in ``sh``."""
    for page in PAGES:
        found = blocks(page.read_text())
        kinds = {block.kind for block in found if not block.kind.startswith("{")}
        assert kinds <= {"python", "console", "sh", "text"}, page.name
        outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert not re.findall(
            r"^    (?:pip|make|python|git|from|import) .*$", outside, re.MULTILINE
        )
    assert len(WITH_CODE) > 7 and len(COMMAND_LINES) > 20


def test_what_is_the_same() -> None:
    """Digits, and the order of what is listed by its size, but no word and no name."""
    line = "caught 2 of 2 faults; smallest relative error seen: 1.bias.grad 3e-06, w.grad 1e-06"
    assert same(line, line.replace("3e-06", "4.1e-06"))
    names = "1.bias.grad 3e-06, w.grad 1e-06"
    assert same(line, line.replace(names, "w.grad 2e-06, 1.bias.grad 1.9e-06"))
    for other in ("w.grad 1e-06", "1.bias.grad 3e-06, v.grad 1e-06", f"{names}, and less in 1"):
        assert not same(line, line.replace(names, other))
    assert not same("agree: 0.weight, 0.bias", "agree: 0.bias, 0.weight")


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in QUICK else pytest.mark.slow)
     for p in WITH_CODE],
)  # fmt: skip
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in their order, in one folder.

    DeepXDE's program on the page of derivatives runs in tests/clients.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "132")  # of its tables
    space: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page.read_text()):
        if block.kind in CODE:
            got = run(block, space, tmp_path)
            assert got is None or same(got, block.printed), f"{block.text}\nprints\n{got}"
    if page.stem in TESTS:
        test = subprocess.run([sys.executable, "-m", "pytest", "-q", TESTS[page.stem]],
                              capture_output=True, text=True)  # fmt: skip
        assert test.returncode == 0, test.stdout


def accepted(line: str) -> bool:
    """Whether what is called is there and takes these options; nothing is run."""
    words = shlex.split(line.replace("cuda", "cpu"), comments=True)  # on any machine
    if "&&" in words:
        at = words.index("&&")
        return accepted(shlex.join(words[:at])) and accepted(shlex.join(words[at + 1 :]))
    match words:
        case ["make", target, *_]:
            phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
            return target in " ".join(phony).split()
        case ["python", "-m", module, *options]:
            return _takes(module, options)
        case ["pip", "install" | "wheel", *_]:
            return True  # tests/test_frame.py reads what is installed
        case [program, *_]:
            return program in KNOWN or (ROOT / program).is_file()
    return True


def _takes(module: str, words: list[str]) -> bool:
    if module in PARSED_BY:
        PARSED_BY[module](words)
    return importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("line", dict.fromkeys(COMMAND_LINES))
def test_command_line(line: str) -> None:
    assert accepted(line)


@pytest.mark.parametrize(
    "line",
    ["make trian", "python -m comparisons speed --divice cuda", "python -m manualbp biuld",
     "python -m manualbp.parity a.py:f --imputs a.py:g", "python -m comparison", "cargo build"],
)  # fmt: skip
def test_wrong_command_lines_are_seen(line: str) -> None:
    with contextlib.suppress(UsageError, SystemExit, ModuleNotFoundError):
        assert not accepted(line)


def cells_of_code(page: str) -> list[tuple[str, str]]:
    """(file, code) of the tables whose last column is headed by a link to a file of ours."""
    found, file = [], None
    for line in page.splitlines():
        head = re.search(r"in \[[\w/]+\.py\]\(\.\./([\w/]+\.py)\) \|$", line)
        file = head[1] if head else file if line.startswith("|") else None
        cell = re.search(r"\| `(.+)` \|$", line)
        if file and cell and not head:
            found.append((file, cell[1]))
    return found


def test_formulas_stand_beside_their_code() -> None:
    """Each cell of code is in the file that its table names."""
    cells = [cell for page in PAGES for cell in cells_of_code(page.read_text())]
    assert len(cells) > 30
    assert [cell for cell in cells if cell[1] not in (ROOT / cell[0]).read_text()] == []


def test_code_that_is_not_there_is_seen() -> None:
    table = (
        "| | in [maths/taylor.py](../manualbp/maths/taylor.py) |\n| --- | --- |\n| z | `z / h` |"
    )
    assert cells_of_code(table) == [("manualbp/maths/taylor.py", "z / h")]


def test_words_are_compared_and_numbers_are_not() -> None:
    said = "input.grad   8x6   1.4e+00   no   DIFFER"
    assert same(said, "input.grad 8x6 0.3 yes DIFFER")
    for other in ("input.grad 8x6 0.3 yes agree", "input.grad 8x6 yes DIFFER", ""):
        assert not same(said, other)
    assert same("a\nb\nc\nd", "a\n...\nd") and same("a\nb", "...\nb") and same("a\nb", "a\n...")
    for other in ("...\nc", "b\n...", "a\n...\nc\n...\nb", "a\n..\nb"):
        assert not same("a\nb", other)


def test_blocks() -> None:
    page = "```python\n1\n```\n\n```text\n2\n```\n\nwords\n\n```text\n3\n```\n"
    assert blocks(page) == [Block("python", "1\n", "2\n"), Block("text", "3\n", "")]


def test_readme() -> None:
    """Read to the end: short, and every number of it is somewhere else, too."""
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    power = (ROOT / "docs/judges.md").read_text()
    for judge, number in re.findall(r"`(\w+)` (?:sees )?(\d+)", text):
        (row,) = [line for line in power.splitlines() if line.startswith("| `") and judge in line]
        assert row.split("|")[4].strip() == number


def test_number_of_cases() -> None:
    from comparisons.gradients.cases import CASES

    assert f"| {len(CASES)} networks and losses" in (ROOT / "docs/comparisons.md").read_text()
