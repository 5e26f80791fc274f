"""docs and CHANGELOG say what the stored record of the power comparison says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from comparisons.power import command
from comparisons.power.faults import FAULTS, STRENGTHS
from comparisons.power.judges import JUDGES
from comparisons.power.results import OURS, Alarm, Outcome, Results, Shown
from comparisons.power.situations.cases import SITUATED

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "comparisons" / "results" / "power"
PAGE = (ROOT / "docs" / "judges.md").read_text()
# The names that the page gives the judges, where it does not take ours.
NAMES = {
    "`compare_gradients`": "ours", "`torch.autograd.gradcheck`": "gradcheck",
    "`jax.test_util.check_grads`, its rule": "check_grads",
    "`torch.testing.assert_close`": "assert_close",
    "a cosine within 1e-5 (Liger)": "cosine", "a norm within 8 % (Megatron)": "norm 8 %",
    "2e-3 times the size (JAX)": "times size",
    "twice the reference's error (FlashAttention)": "twice",
    "loss curves within 5 %": "loss 5 %", "loss curves within 1e-4": "loss 1e-4",
}  # fmt: skip


def stored() -> Results:
    found: dict[str, Any] = json.loads((FOLDER / "power.json").read_text())
    found.pop("passes")
    kinds = {"outcomes": Outcome, "false": Alarm, "situated": Shown}
    return Results(**{n: [kinds[n](**v) for v in value] if n in kinds else value
                      for n, value in found.items()})  # fmt: skip


RECORD = stored()


def test_the_record_is_of_the_faults_and_judges_that_there_are() -> None:
    assert [o.fault for o in RECORD.outcomes] == [f.name for f in FAULTS]
    assert [s.fault for s in RECORD.situated] == [f.name for f in SITUATED]
    assert command.judges(RECORD) == list(JUDGES) and RECORD.pairs == command.PAIRS
    assert RECORD.passes and command.page(RECORD) == (FOLDER / "power.md").read_text()


def test_the_page_says_how_many() -> None:
    text = " ".join(PAGE.split())
    assert f"plants {len(FAULTS)} faults" in text
    assert f"there are {len(SITUATED)} faults that" in text
    assert f"{RECORD.pairs} correct pairs that differ in rounding alone" in text
    missed = sum(len(outcome.missed) for outcome in RECORD.outcomes)
    assert f"The {missed} that are not caught" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_its_table(name: str) -> None:
    row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE, re.MULTILINE)
    assert row
    judge = NAMES[name]
    expected = [str(RECORD.caught(judge, s)) for s in STRENGTHS] + [str(RECORD.shown(judge))]
    expected.append(str(RECORD.alarms.get(judge, "")))
    assert [cell.strip() for cell in row[1].split("|")] == expected


def test_every_judge_has_a_row() -> None:
    assert set(NAMES.values()) == set(JUDGES)


def test_the_pages_say_the_same() -> None:
    page = " ".join((ROOT / "docs" / "parity-rule.md").read_text().split())
    assert f"Of {len(FAULTS)} planted faults" in page
    assert f"and {RECORD.caught(OURS, '1e-6')} at 1e-6" in page
    changes = " ".join((ROOT / "CHANGELOG.md").read_text().split())
    words = f"{len(FAULTS)} planted faults, {len(SITUATED)} that show in a situation alone and "
    assert f"{words}{RECORD.pairs} correct pairs before ten judges" in changes
