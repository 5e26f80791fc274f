"""Fixtures of more than one file."""

from __future__ import annotations

import pytest

from manualbp.maths.activations import ACTIVATIONS


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
