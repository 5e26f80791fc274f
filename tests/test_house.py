"""Rules of the source tree: who imports whom, what lives where, and how large a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "manualbp"
CORE = sorted(p for p in PACKAGE.rglob("*.py") if "parity" not in p.relative_to(PACKAGE).parts)
PARITY = sorted((PACKAGE / "parity").rglob("*.py"))
COMPARISONS = sorted((ROOT / "comparisons").rglob("*.py"))
PRODUCT = [*CORE, *PARITY, *COMPARISONS]

# Each room may import those in its list, and itself.
ROOMS = {
    "settings": [],
    "reference": [],
    "maths": [],
    "autograd": ["maths"],
    "fast": ["settings", "maths", "autograd"],
    "modules": ["settings", "maths", "autograd", "fast"],
    "conversion": ["settings", "maths", "autograd", "modules"],
    "parity": [],
    "__main__": ["fast"],
}
GROUND = {"maths": {"torch"}, "reference": {"numpy"}, "settings": {"torch"}}
EXTRAS = {"tensorboard", "sklearn", "rich", "matplotlib", "pandas", "scipy", "jax"}

# Where autograd is asked for a gradient; `x.backward()` is the other way.
ASKS = ("torch.autograd.grad", "torch.autograd.backward", "autograd.grad")
# FusedLoss.backward does what its user would have written: their own call, not a gradient of ours.
# nested.py is for models that have no derivatives by hand, or slower ones.
ALLOWED = {
    "manualbp.modules.fused_loss": ["cost.backward()"],
    "manualbp.autograd.nested": ["torch.autograd.grad"],
}
# Probes of PyTorch's that are private.
PROBE = re.compile(r"torch\._C\b|_current_level\b|_will_engine|_global_\w+_hooks|_functorch\b")


def name_of(path: Path) -> str:
    """The dotted name of a module: manualbp/maths/losses.py is manualbp.maths.losses."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in PRODUCT}


def imports(source: str) -> set[str]:
    """Every module that is imported, anywhere in the source, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def room(module: str) -> str:
    """The room of one of manualbp's modules; "" for the package itself."""
    return [*module.split("."), ""][1]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The ways that lead back to where they began; one for each module that is on such a way."""
    found = []
    for start in graph:
        ways, seen = [[start]], set()
        while ways:
            way = ways.pop()
            for following in graph.get(way[-1], ()):
                if following == start:
                    found.append([*way, start])
                    ways = []
                    break
                if following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
    return found


def graph_of(paths: Iterable[Path]) -> dict[str, set[str]]:
    return {name_of(p): imports(p.read_text()) & MODULES - {name_of(p)} for p in paths}


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_rooms_import_downwards(path: Path) -> None:
    module, found = name_of(path), imports(path.read_text())
    own = {name for name in found if name.split(".")[0] == "manualbp"}
    if module != "manualbp":
        assert {room(name) for name in own} <= {room(module), *ROOMS[room(module)]}
    outside = {name.split(".")[0] for name in found} - {"manualbp"} - set(sys.stdlib_module_names)
    assert not outside & EXTRAS
    assert outside <= GROUND.get(room(module), outside)
    assert "triton" not in outside or module.startswith("manualbp.fast.gpu.kernels.")


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_fast_has_one_door(path: Path) -> None:
    if room(name_of(path)) not in ("fast", ""):
        inside = [n for n in imports(path.read_text()) if n.startswith("manualbp.fast.")]
        assert inside == []


def test_no_circles() -> None:
    """A package's __init__ stands for its modules, so it does not count among them."""
    packages = {name_of(p) for p in PRODUCT if p.name == "__init__.py"}
    graph = graph_of(p for p in PRODUCT if p.name != "__init__.py")
    assert circles({name: found - packages for name, found in graph.items()}) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"], ["c", "b", "c"]]
    assert imports("def f():\n    from manualbp.maths import losses\n") == {"manualbp.maths.losses"}


ALONE = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] == ["manualbp", BLOCKED]:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocked())
package = type(sys)("manualbp")
package.__path__ = [ROOT + "/manualbp"]
sys.modules["manualbp"] = package  # without __init__, which imports every room

import torch
from manualbp.autograd.chain import apply_chain
from manualbp.autograd.segment import Segment
from manualbp.maths.activations import Tanh
from manualbp.maths.layers import LINEAR, Elementwise

x, w, b = torch.randn(5, 4), torch.randn(3, 4, requires_grad=True), torch.randn(3)
segment = Segment([LINEAR, Elementwise(Tanh())], [(w, b), ()])
apply_chain(segment, None, *segment.parameters, x)[0].sum().backward()
expected, = torch.autograd.grad(torch.tanh(x @ w.t() + b).sum(), w)
torch.testing.assert_close(w.grad, expected)
print("alone")
"""


@pytest.mark.parametrize("blocked", ["fast", "modules", "conversion", "parity", "settings"])
def test_maths_and_autograd_work_alone(blocked: str) -> None:
    code = f"BLOCKED, ROOT = {blocked!r}, {str(ROOT)!r}\n{ALONE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "alone\n", done.stderr


def test_a_room_that_is_needed_is_missed() -> None:
    code = f"BLOCKED, ROOT = 'maths', {str(ROOT)!r}\n{ALONE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "blocked: manualbp.maths" in done.stderr


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_private_probes_live_in_one_file(path: Path) -> None:
    if path.name != "torch_internals.py":
        assert PROBE.findall(path.read_text()) == []


def asks_autograd(source: str) -> list[str]:
    """Calls that obtain a gradient from autograd."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if ast.unparse(node) in ASKS
        # layer.backward(delta, ...): the hand-written ones take arguments
        or (isinstance(node, ast.Call) and ast.unparse(node).endswith(".backward()"))
    ]


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_core_never_asks_autograd(path: Path) -> None:
    assert asks_autograd(path.read_text()) == ALLOWED.get(name_of(path), [])


def test_that_rule_can_fail() -> None:
    assert asks_autograd("loss.backward()") and asks_autograd("torch.autograd.grad(c, w)")
    assert PROBE.findall("torch._C._len_torch_dispatch_stack()")


def test_one_summary_writer() -> None:
    users = [p.name for p in PRODUCT if "SummaryWriter(" in p.read_text()]
    assert users == ["tensorboard.py"]


@pytest.mark.parametrize("path", COMPARISONS, ids=name_of)
def test_comparisons_use_public_names(path: Path) -> None:
    hidden = [n for n in imports(path.read_text()) if any(p.startswith("_") for p in n.split("."))]
    assert [n for n in hidden if not n.startswith("__future__")] == []


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


def test_rooms_stay_small() -> None:
    """manualbp/ holds rooms, the settings and an index page; no folder more than a dozen files."""
    assert {p.name for p in PACKAGE.glob("*.*")} == {
        "__init__.py", "__main__.py", "settings.py", "py.typed", "README.md",
    }  # fmt: skip
    folders = [p.parent for p in PRODUCT if p.name != "__init__.py"]
    assert [str(f) for f in set(folders) if folders.count(f) > 13] == []


def test_no_two_classes_of_one_name() -> None:
    """In manualbp, in its two independent rooms, and in comparisons."""
    oracle = [path for path in CORE if room(name_of(path)) == "reference"]
    for paths in (set(CORE) - set(oracle), oracle, PARITY, COMPARISONS):
        names = [
            node.name
            for path in paths
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)
        ]
        assert sorted(n for n in set(names) if names.count(n) > 1) == []
