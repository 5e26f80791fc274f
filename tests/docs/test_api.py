"""Every public name says its arguments, has an example that runs, and one place in docs/api."""

from __future__ import annotations

import argparse
import doctest
import importlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import manualbp
from manualbp import parity

API = Path(__file__).parents[2] / "docs" / "api"
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (manualbp, parity) for name in package.__all__
}  # fmt: skip
ENTRY = re.compile(r"^\.\. auto(?:class|function):: ([\w.]+)", re.M)
COMMAND = re.compile(r"^```\{sphinx_argparse_cli\}\n:module: (\S+)\n:func: (\w+)", re.M)
WIDTH = 86  # letters of a code block on the site, without a scroll bar


def sections(documented: Any) -> dict[str, str]:
    """The text that is indented below each heading of a docstring, in order."""
    text = inspect.cleandoc(documented.__doc__ or "")
    found = re.findall(r"^([A-Z]\w+):\n((?:(?: {4}.*)?(?:\n|\Z))+)", text, re.M)
    return {head: inspect.cleandoc(body) for head, body in found}


def example(documented: Any) -> doctest.DocTest:
    text = inspect.cleandoc(documented.__doc__ or "")
    return doctest.DocTestParser().get_doctest(text, {}, documented.__name__, None, 0)


def faults(documented: Any) -> list[str]:
    """What the docstring of a function or class lacks."""
    text, found = sections(documented), []
    arguments = text.get("Args", text.get("Attributes", ""))
    listed = re.findall(r"^(\*{0,2}\w[\w*, ]*):", arguments, re.M)
    names = [name.strip(" *") for line in listed for name in line.split(",")]
    taken = list(inspect.signature(documented).parameters)
    if sorted(names) != sorted(taken):
        found.append(f"it documents {names}, it takes {taken}")
    shown = example(documented).examples
    if [*text][-1:] != ["Example"] or not any(each.want for each in shown):
        found.append("it does not end with an example that prints something")
    if any(len(line) > WIDTH for line in text.get("Example", "").splitlines()):
        found.append("its example is too wide")
    return found


def failures(documented: Any) -> str:
    """What its example prints other than it says; whatever the seed, so that it is stable."""
    out = io.StringIO()
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            doctest.DocTestRunner(verbose=False).run(example(documented), out=out.write)
    return out.getvalue()


def entries(pages: dict[str, str]) -> list[str]:
    return [name for text in pages.values() for name in ENTRY.findall(text)]


def pages() -> dict[str, str]:
    return {page.name: page.read_text() for page in API.glob("*.md")}


@pytest.mark.parametrize("name", PUBLIC)
def test_says_its_arguments_and_has_an_example(name: str) -> None:
    assert faults(PUBLIC[name]) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_example_prints_what_it_says(name: str) -> None:
    assert failures(PUBLIC[name]) == ""


def test_each_name_stands_on_one_page() -> None:
    found = entries(pages())
    assert {name: found.count(name) for name in PUBLIC} == dict.fromkeys(PUBLIC, 1)


def test_command_lines_are_made_of_their_parsers() -> None:
    made = COMMAND.findall(pages()["commands.md"])
    parsers = [getattr(importlib.import_module(module), name)() for module, name in made]
    assert [parser.prog for parser in parsers] == [
        "python -m manualbp", "python -m manualbp.parity", "python -m manualbp.parity replay",
        "python -m comparisons",
    ]  # fmt: skip
    silent = [action.dest for parser in parsers for action in actions(parser) if not action.help]
    assert silent == ["command", "command"]  # the choice of one, which has a heading for each


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser and of its commands."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [each for command in action.choices.values() for each in actions(command)]
    return found


def right(x: float, *rest: float, scale: float = 1.0) -> float:
    """``scale x``.

    Shapes: none, and no section.

    Args:
        x: a number: any.
        *rest, scale: others,
            as: they are.

    A paragraph in between.

    Example:
        >>> from math import sqrt
        >>> sqrt(4)
        2.0
    """
    return x * scale


def with_docstring(old: str, new: str) -> Callable[..., float]:
    """``right``, its docstring changed in one place."""

    def planted(x: float, *rest: float, scale: float = 1.0) -> float:
        return x * scale

    text = right.__doc__ or ""
    assert text.count(old) == 1
    planted.__doc__ = text.replace(old, new)
    return planted


def test_a_right_docstring_has_no_fault() -> None:
    assert (faults(right), failures(right)) == ([], "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x: a number", "y: a number"),
        ("*rest, scale", "*rest"),
        ("*rest, scale", "*rest, scale, shift"),
        ("*rest, scale", "*rest, scale, scale"),
        ("    Args:\n", "    Arguments of it\n"),
        ("2.0\n", "2.0\n\n    Returns:\n        More.\n"),
        (">>> sqrt(4)\n        2.0", ">>> two = sqrt(4)"),
        ("    Example:\n", "    For example\n"),
        ("sqrt(4)\n", f"sqrt(4)  # {'root ' * 20}\n"),
    ],
    ids=["misspelt", "missing", "one more", "twice", "no section", "not last", "prints nothing",
         "no example", "too wide"],
)  # fmt: skip
def test_a_planted_fault_is_seen(old: str, new: str) -> None:
    assert len(faults(with_docstring(old, new))) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.0", "2.5"),
        ("from math import sqrt", "sqrt = torch.sqrt"),
        (">>> sqrt(4)\n        2.0", ">>> import torch\n        >>> torch.rand(1)\n"
         "        tensor([0.4963])"),
    ],
    ids=["prints something else", "imports too little", "depends on the seed"],
)  # fmt: skip
def test_a_planted_example_fails(old: str, new: str) -> None:
    assert failures(with_docstring(old, new)) != ""


def test_a_name_on_no_page_or_on_two_is_seen() -> None:
    page = (
        ".. autoclass:: manualbp.MLP\n   :members:\n\n.. autofunction:: manualbp.convert(model)\n"
    )
    assert entries({"one": page}) == ["manualbp.MLP", "manualbp.convert"]
    assert entries({"one": page, "two": page}).count("manualbp.MLP") == 2
