"""Fixtures of more than one file."""

from __future__ import annotations

import pytest

from manualbp.maths.activations import ACTIVATIONS


@pytest.fixture(autouse=True)
def width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not known, as in a pipe: pytest-xdist sets one for its processes."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def r_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second order by hand everywhere, not only where it is faster."""
    for activation in ACTIVATIONS.values():
        monkeypatch.setattr(type(activation), "r_operator_from", 0, raising=False)


@pytest.fixture(params=["recorded", "r_operator"])
def second_order(request: pytest.FixtureRequest) -> None:
    """Both ways to it."""
    if request.param == "r_operator":
        request.getfixturevalue("r_operator")
