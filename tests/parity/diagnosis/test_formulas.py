"""Formula faults over two dozen operators: each is named, and none is called what it is not."""

from __future__ import annotations

import re

import pytest

from manualbp.parity.diagnosis.diagnose import diagnose
from tests.parity.diagnosis.operators import CASES, OPERATORS, evidence_of_operator


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_each_formula_fault_is_named(name: str, fault: str) -> None:
    _, kind, words, _ = OPERATORS[name].faults[fault]
    tensor, evidence = evidence_of_operator(name, fault)
    finding = next(f for f in diagnose(evidence) if f.tensor == tensor)
    assert finding.kind == kind
    assert re.search(words, finding.words)
