"""Whoever adds a kind of wrong is told what is missing: its place in the order, or its test."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import pytest

from manualbp.parity.diagnosis import kinds
from manualbp.parity.diagnosis.evidence import Evidence, Pattern, Suspect
from manualbp.parity.diagnosis.kinds import RECOGNIZERS
from tests.parity.diagnosis import planted
from tests.parity.diagnosis.by_hand import evidence_of
from tests.parity.diagnosis.operators import CASES, evidence_of_operator
from tests.parity.diagnosis.planted import FAULTS, OTHER_BITS, W

FILES = [import_module(f"{kinds.__name__}.{found.name}")
         for found in pkgutil.iter_modules(kinds.__path__)]  # fmt: skip
NAMES = [recognizer.__name__ for recognizer in RECOGNIZERS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__.rpartition(".")[2])
def test_every_recognizer_has_its_place(file: object) -> None:
    for name, function in inspect.getmembers(file, inspect.isfunction):
        own = function.__module__ == file.__name__ and not name.startswith("_")  # type: ignore[attr-defined]
        if own and str(function.__annotations__["return"]).startswith("Pattern"):
            assert name in NAMES, f"put {name} into RECOGNIZERS of {kinds.__file__}"
            assert list(function.__annotations__) == ["s", "return"], f"{name} takes a Suspect"


def first(tensor: str, evidence: Evidence) -> str:
    """The recognizer that says what is wrong with a tensor."""
    suspect = Suspect.of(tensor, evidence)
    found = (ask.__name__ for ask in RECOGNIZERS if suspect and ask(suspect))
    return next(found, "")


def test_every_recognizer_has_a_planted_fault() -> None:
    answered = {first(tensor, evidence_of(rules)) for rules, tensor, *_ in FAULTS.values()}
    answered.add(first(W, evidence_of(OTHER_BITS)))
    answered |= {first(*evidence_of_operator(*case)) for case in CASES}
    for name in NAMES:
        assert name in answered, (
            f"plant a fault that {name} recognizes: FAULTS of {planted.__file__}, or operators.py"
        )


def test_the_last_one_always_answers() -> None:
    suspect = Suspect.of(W, evidence_of(FAULTS["noise"][0]))
    assert suspect is not None and isinstance(RECOGNIZERS[-1](suspect), Pattern)
