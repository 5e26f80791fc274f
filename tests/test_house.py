"""Rules of the source tree: who imports whom, and who may ask autograd for a gradient."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted([*(ROOT / "manualbp").glob("*.py"), *(ROOT / "manualbp/activations").glob("*.py"),
               *(ROOT / "manualbp/layers").glob("*.py"),
               *(ROOT / "manualbp/kernels").glob("*.py")])  # fmt: skip
PARITY = sorted((ROOT / "manualbp" / "parity").rglob("*.py"))
COMPARISONS = sorted((ROOT / "comparisons").rglob("*.py"))

# Each may import the ones before it, of manualbp's own modules.
ORACLE = ("reference", "reference_functions")  # independent: numpy alone
ORDER = ["setting", "activations", "losses", "cross_entropy", "kernels", "routines", "gemm",
         "layers", "eligible", "backprop", "pairs", "function", "rule", "criterion", "steps",
         "tiles", "recompute", "run", "narrow", "sequential", "fused", "gated", "forward_source",
         "blocks", "convert", "descent"]  # fmt: skip

# What is imported only where Triton is.
LAZY = ("chain", "errors", "functions", "launch", "linear", "scalar", "tiles")


# Where autograd is asked for a gradient; `x.backward()` is the other way.
AUTOGRAD = ("torch.autograd.grad", "torch.autograd.backward", "autograd.grad")


def imports(source: str) -> set[str]:
    """Every imported name, dotted: ``from manualbp import losses`` gives manualbp.losses."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def asks_autograd(source: str) -> list[str]:
    """Calls that obtain a gradient from autograd."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if ast.unparse(node) in AUTOGRAD
        # activation.backward(delta, cache): the hand-written ones take arguments
        or (isinstance(node, ast.Call) and ast.unparse(node).endswith(".backward()"))
    ]


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.name)
def test_core_never_asks_autograd(path: Path) -> None:
    assert asks_autograd(path.read_text()) == []


def test_that_rule_can_fail() -> None:
    assert asks_autograd("loss.backward()") and asks_autograd("torch.autograd.grad(c, w)")


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.name)
def test_layers_import_downwards(path: Path) -> None:
    own = {name.split(".")[1] for name in imports(path.read_text()) if name.startswith("manualbp.")}
    if path.stem in ORDER:
        assert own <= set(ORDER[: ORDER.index(path.stem)])
    outside = {name.split(".")[0] for name in imports(path.read_text())}
    if path.stem in ORACLE:
        assert own <= set(ORACLE) and "torch" not in outside
    assert not outside & {"tensorboard", "sklearn", "rich", "matplotlib", "pandas", "scipy"}
    assert "triton" not in outside or (path.parent.name == "kernels" and path.stem in LAZY)
    if path.parent.name == "kernels":
        assert own <= {"activations", "losses", "cross_entropy", "kernels"}


@pytest.mark.parametrize("path", PARITY, ids=lambda p: str(p.relative_to(ROOT)))
def test_parity_knows_nothing_of_the_mlp(path: Path) -> None:
    own = {n for n in imports(path.read_text()) if n.startswith("manualbp.")}
    assert all(name.startswith("manualbp.parity") for name in own), own


def test_one_summary_writer() -> None:
    users = [p.name for p in [*CORE, *PARITY, *COMPARISONS] if "SummaryWriter(" in p.read_text()]
    assert users == ["tensorboard.py"]


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: str(p.relative_to(ROOT)))
def test_comparisons_use_public_names(path: Path) -> None:
    hidden = [n for n in imports(path.read_text()) if any(p.startswith("_") for p in n.split("."))]
    assert [n for n in hidden if not n.startswith("__future__")] == []
