"""An activation or a loss is in every table that must know it; a missing entry names its file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from manualbp.maths import activations, cross_entropy, losses
from manualbp.maths.activations import ACTIVATIONS
from manualbp.modules.cost import LOSSES
from manualbp.modules.sequential import MLP
from manualbp.reference import functions as oracle

PACKAGE = Path(__file__).parents[1] / "manualbp"
KERNELS = PACKAGE / "fast/gpu/kernels"
CSRC = PACKAGE / "fast/native/csrc"
COSTS = [losses.MSE, losses.L1, losses.Huber, losses.SmoothL1, losses.BCEWithLogits,
         cross_entropy.CrossEntropy]  # fmt: skip


def codes(file: str) -> dict[str, list[str]]:
    """By class, the names that a kernel's table gives it. Read as text: Triton may be missing."""
    table = re.search(r"^CODES.*?^}", (KERNELS / file).read_text(), re.M | re.S)
    rows = re.findall(r"^    (?:\w+\.)?(\w+): lambda \w+: (.*),$", table[0] if table else "", re.M)
    return {name: re.findall(r'Code\("(\w+)"', row) or ["none"] for name, row in rows}


def without_branch(source: str, function: str, names: set[str], argument: str) -> set[str]:
    """The names that no `if` of a kernel's function asks for."""
    body = re.search(rf"^def {function}\(.*?(?=^@|\Z)", source, re.M | re.S)
    asked = set(re.findall(rf'{argument} == "(\w+)"', body[0] if body else ""))
    return names - asked


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_everywhere(name: str) -> None:
    kind = type(ACTIVATIONS[name])
    names = get_args(activations.ActivationName)
    assert name in names, "maths/activations/__init__.py: ActivationName lacks it"
    assert len(names) == len(ACTIVATIONS), "ActivationName has one too many"
    assert kind in activations._TO_MODULE, "maths/activations/__init__.py: _TO_MODULE lacks it"
    module = activations.to_module(ACTIVATIONS[name])
    found = activations.from_module(module)
    assert type(found) is kind, "maths/activations/__init__.py: MODULES lacks it"
    assert name in oracle.ACTIVATIONS, "reference/functions.py: ACTIVATIONS lacks it"
    assert f'"{name}"' in str(MLP.__doc__), "modules/sequential.py: MLP's docstring lacks it"
    assert kind.__name__ in codes("functions.py"), "fast/gpu/kernels/functions.py: CODES lacks it"


def lacks(file: str, name: str) -> bool:
    """Whether a table of the C++ sources has no entry of that name."""
    return f'{{"{name}", ' not in (CSRC / file).read_text()


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_an_activation_is_in_cpp(name: str) -> None:
    """A layer of a name that C++ does not know would be an error there, and not run in Python."""
    for file in ("exact/aten_activations.cpp", "tiles/activations.h"):
        assert not lacks(file, name), f"fast/native/csrc/{file} lacks it"
        assert lacks(file, name + "_forgotten")


@pytest.mark.parametrize("kind", COSTS, ids=lambda k: k.__name__)
def test_a_loss_is_everywhere(kind: type[losses.Loss]) -> None:
    found = {type(build(module())): module for module, build in LOSSES.items()}
    assert kind in found, "modules/cost.py: LOSSES lacks it"
    assert issubclass(found[kind], nn.Module)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", kind.__name__).lower()
    assert name in oracle.LOSSES, "reference/functions.py: LOSSES lacks it"
    assert kind.__name__ in codes("errors.py"), "fast/gpu/kernels/errors.py: CODES lacks it"


def subclasses(kind: type) -> set[type]:
    below = set(kind.__subclasses__())
    return below.union(*map(subclasses, below))


def test_no_class_is_forgotten() -> None:
    named = {type(f) for f in ACTIVATIONS.values()} | {activations.gated.RecordedSiLU}
    mine = {c for c in subclasses(activations.Activation) if c.__module__.startswith("manualbp.")}
    assert mine == named, "maths/activations/__init__.py: ACTIVATIONS lacks one"
    mine = {c for c in subclasses(losses.Loss) if c.__module__.startswith("manualbp.")}
    assert {c for c in mine if not c.__name__.startswith("_")} == set(COSTS)


def test_every_kernel_name_has_its_branch() -> None:
    """A name without one would silently be the identity, or the last loss in the list."""
    text = (KERNELS / "functions.py").read_text()
    names = {name for found in codes("functions.py").values() for name in found} - {"none"}
    for function in ("f", "slope"):
        assert without_branch(text, function, names, "F") == set(), (
            f"kernels/functions.py {function}"
        )
    text = (KERNELS / "errors.py").read_text()
    names = {name for found in codes("errors.py").values() for name in found}
    # cross-entropy has a function of its own, and the last branch needs no name.
    assert without_branch(text, "elementwise", names, "C") == {"bce", "cross_entropy"}


def test_a_missing_branch_is_found() -> None:
    source = 'def f(z, F):\n    if F == "relu":\n        a = 1\n@jit\ndef slope():\n    pass\n'
    assert without_branch(source, "f", {"relu", "mish"}, "F") == {"mish"}
    assert without_branch(source, "slope", {"relu"}, "F") == {"relu"}
    assert len(codes("functions.py")) == len(ACTIVATIONS) and len(codes("errors.py")) == len(COSTS)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_every_derivative_kernel_can_write_over_delta(name: str) -> None:
    """The same bits, in the memory that is given."""
    f, z, delta = ACTIVATIONS[name], torch.randn(8, 8), torch.randn(8, 8)
    cache, expected = (f.f(z) if f.needs == "a" else z), torch.empty(8, 8)
    got = f.backward(delta, cache, expected)
    assert got.data_ptr() == expected.data_ptr() and torch.equal(got, f.backward(delta, cache))
