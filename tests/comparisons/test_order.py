"""Who imports whom in comparisons: shared helpers on the ground, then the packages, cli on top."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from comparisons.cli import COMMANDS

ROOT = Path(__file__).parents[2]
GROUND = (
    "counterparts",
    "machine",
    "output",
    "pixels",
    "stopping",
)  # import nothing of comparisons
TOP = ("__main__", "cli")  # each may import what comes after it, and all below


def name_of(path: Path) -> str:
    """``comparisons/speed/arms/__init__.py`` is comparisons.speed.arms."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {name_of(p): p.read_text() for p in sorted((ROOT / "comparisons").rglob("*.py"))}


def imports(source: str, known: Collection[str]) -> set[str]:
    """The known modules that a source imports, in functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(known) or {str(node.module)}
    return found & set(known)


def place(module: str) -> str:
    """The package of a module, or its own name where it is in none."""
    return module.split(".")[1] if "." in module else ""


def may_import(module: str, other: str) -> bool:
    here, there = place(module), place(other)
    if here in TOP:
        return there not in TOP[: TOP.index(here) + 1]
    return here not in GROUND and there in (here, *GROUND)


def circle(graph: Mapping[str, Collection[str]]) -> list[str]:
    """Modules that import one another in a circle; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_its_place() -> None:
    assert {place(module) for module in SOURCES} == {"", *GROUND, *COMMANDS, *TOP}


def test_packages_do_nothing_when_they_are_imported() -> None:
    """So the modules alone decide what imports what."""
    packages = [p.read_text() for p in (ROOT / "comparisons").rglob("__init__.py")]
    assert all(len(ast.parse(source).body) == 1 for source in packages)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_down(module: str) -> None:
    found = imports(SOURCES[module], SOURCES)
    assert [other for other in found if not may_import(module, other)] == []


def test_no_circles() -> None:
    assert circle({module: imports(source, SOURCES) for module, source in SOURCES.items()}) == []


def test_no_class_name_twice() -> None:
    names = Counter(
        node.name
        for source in SOURCES.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_these_rules_can_fail() -> None:
    source = "if TYPE_CHECKING:\n    from a.b import c\ndef f():\n    import a.d"
    assert imports(source, ["a.b", "a.b.c", "a.d", "a.e"]) == {"a.b.c", "a.d"}
    assert not may_import("comparisons.power.command", "comparisons.speed.timing")
    assert not may_import("comparisons.power.command", "comparisons.cli")
    assert not may_import("comparisons.output", "comparisons.machine")
    assert not may_import("comparisons.machine", "comparisons.power.judges")
    assert not may_import("comparisons.cli", "comparisons.__main__")
    assert circle({"a": ["b"], "b": ["c"], "c": ["a"]}) and not circle({"a": ["b", "c"]})
