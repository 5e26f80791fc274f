"""The rooms of manualbp.parity: who imports whom, also inside functions, and how large they are."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "manualbp" / "parity"
FILES = sorted(PARITY.rglob("*.py"))
DATA = {"record", "training_record"}
ARMS_TO_DIAGNOSIS = {"bits", "record", "power_record", "arms", "judge", "diagnosis"}
# Room -> the rooms it imports, and no others. Files of parity/ itself are rooms of their own.
IMPORTS: dict[str, set[str]] = {
    "bits": set(),
    "files": set(),
    "versions": set(),
    "power_record": set(),
    "record": {"power_record"},
    "step_record": set(),
    "training_record": {"power_record", "record"},
    "repro": {"files", "versions"},
    "arms": {"bits"},
    "judge": {"bits", "power_record", "record", "arms"},
    "diagnosis": {"bits", "power_record", "record", "arms", "judge"},
    "trajectories": ARMS_TO_DIAGNOSIS | {"files", "step_record", "training_record"},
    "reports": DATA | {"power_record", "step_record", "files", "versions"},
    "gradients": {"record", "arms", "judge", "diagnosis", "reports", "repro", "versions"},
    "training": {"training_record", "arms", "trajectories", "versions"},
    "__init__": DATA
    | {"bits", "step_record", "arms", "judge", "trajectories", "gradients", "training"},
    "cli": DATA | {"arms", "reports", "repro", "gradients", "training", "versions"},
    "__main__": {"cli"},
}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def imported(source: str) -> set[str]:
    """The modules of parity that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "expected absolute imports"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES}


def room(path: Path) -> str:
    return path.relative_to(PARITY).parts[0].removesuffix(".py")


GRAPH = {name: imported(path.read_text()) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", sorted({room(path) for path in FILES}))
def test_a_room_imports_those_below_it(name: str) -> None:
    found = {room(MODULES[other]) for path in FILES if room(path) == name
             for other in GRAPH[module(path)]}  # fmt: skip
    assert found - {name} == IMPORTS[name], f"IMPORTS[{name!r}] in {__file__}"


def test_nothing_is_imported_in_a_circle() -> None:
    below: dict[str, set[str]] = {}
    while len(below) < len(GRAPH):
        free = {n for n in GRAPH if n not in below and GRAPH[n] <= below.keys()}
        assert free, f"circle among {sorted(set(GRAPH) - set(below))}"
        below |= {n: GRAPH[n] for n in free}


def test_imports_in_functions_and_of_modules_are_seen() -> None:
    source = """
def f():
    from manualbp.parity.arms import calls
    from manualbp.parity.gradients import compare_gradients
"""
    assert imported(source) == {"manualbp.parity.arms.calls", "manualbp.parity.gradients"}


def test_a_newcomer_finds_a_file_by_its_name() -> None:
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
    assert {path.name: len(path.read_text().splitlines()) for path in FILES
            if len(path.read_text().splitlines()) > 250} == {}  # fmt: skip
    folders = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert max(folders.values()) <= 12, folders
