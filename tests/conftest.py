"""Fixtures of more than one file."""

from __future__ import annotations

import pytest

from manualbp.fast import native
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import elementwise
from manualbp.modules import by_input


@pytest.fixture(autouse=True)
def width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not known, as in a pipe: pytest-xdist sets one for its processes."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def never_by_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivatives by the input by hand also where nested autograd is faster."""
    monkeypatch.setattr(by_input, "graph_is_faster", lambda *call: False)


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch, never_by_graph: None) -> None:
    """The recursion in Python, which tests can look into, instead of the library in C++."""
    monkeypatch.setattr(native, "library", lambda: None)


@pytest.fixture
def r_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second order by hand everywhere, not only where it is faster."""
    for activation in ACTIVATIONS.values():
        monkeypatch.setattr(type(activation), "r_operator_from", 0, raising=False)


@pytest.fixture
def written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few numbers a delta has, as in large nets."""
    monkeypatch.setattr(elementwise, "WORTH_IT", 0)


@pytest.fixture(params=["small", "written over"])
def deltas(request: pytest.FixtureRequest) -> None:
    """Both ways to f' times delta."""
    if request.param == "written over":
        request.getfixturevalue("written_over")


@pytest.fixture(params=["recorded", "r_operator"])
def second_order(request: pytest.FixtureRequest) -> None:
    """Both ways to it."""
    if request.param == "r_operator":
        request.getfixturevalue("r_operator")
