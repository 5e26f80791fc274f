"""The pages of the site as tests read them: their blocks, what is printed, and the outcome."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.py)")


class Block(NamedTuple):
    """``kind`` as it stands behind the fence, the text, and what is said that it prints."""

    kind: str
    text: str
    printed: str


def blocks(page: str) -> list[Block]:
    """In order. A ``text`` block right below another is what that one prints."""
    found: list[Block] = []
    end = -1
    for match in BLOCK.finditer(page):
        kind, text = match.groups()
        if kind == "text" and found and page[end : match.start()] == "\n\n":
            found[-1] = found[-1]._replace(printed=text)
        else:
            found.append(Block(kind, text, ""))
        end = match.end()
    return found


def printed_by(code: str, space: dict[str, Any]) -> str:
    """What the code prints when it runs in that namespace."""
    out, name = io.StringIO(), "<page>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    with contextlib.redirect_stdout(out):  # linecache is for what reads its own source
        exec(compile(code, name, "exec"), space)
    return out.getvalue()


def run(block: Block, space: dict[str, Any], folder: Path) -> str | None:
    """What a block prints; None for one that names a file, in which it is written.

    Files, and modules made of them, belong to the folder; commands run there.
    """
    if file := FILE.match(block.text):
        with (folder / file[1]).open("a") as opened:
            opened.write(f"{block.text}\n\n")
        sys.modules.pop(Path(file[1]).stem, None)
        return None
    if block.kind == "python":
        return printed_by(block.text, space)
    command = [sys.executable, *shlex.split(block.text.removeprefix("$ "))[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def same(got: str, printed: str) -> bool:
    """Whether the words are. A line ``...`` of the page stands for any lines."""
    lines, end = _words(got), 0
    parts = [list(part) for part in _split(_words(printed))]
    for number, part in enumerate(parts):
        starts = [0] if number == 0 else range(end, len(lines) + 1)
        if number == len(parts) - 1 and number:
            starts = [max(end, len(lines) - len(part))]
        at = next((i for i in starts if lines[i : i + len(part)] == part), None)
        if at is None:
            return False
        end = at + len(part)
    return end == len(lines)


def _words(text: str) -> list[list[str]]:
    """Words alone: digits of rounding, and which bits are equal, are the processor's."""
    named = map(_by_name, text.splitlines())
    lines = (re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", line) for line in named)
    return [["#" if word in ("yes", "no") else word for word in re.sub("─+", "─", line).split()]
            for line in lines]  # fmt: skip


def _by_name(line: str) -> str:
    """What power lists by size, by name: sizes that are nearly equal are the processor's, too."""
    words, seen, listed = line.partition("smallest relative error seen: ")
    return words + seen + ", ".join(sorted(listed.split(", ")))


def _split(lines: list[list[str]]) -> list[list[list[str]]]:
    parts: list[list[list[str]]] = [[]]
    for line in lines:
        if line == ["..."]:
            parts.append([])
        else:
            parts[-1].append(line)
    return parts
