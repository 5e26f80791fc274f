"""The power comparison as a command: its numbers come from the judges, its exit code obeys them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from comparisons.cli import main
from comparisons.output import write_files
from comparisons.power import command, results
from comparisons.power.faults import FAULTS, STRENGTHS, Fault
from comparisons.power.judges import JUDGES, Judge
from comparisons.power.results import Alarm, Outcome, Results
from comparisons.power.situations.cases import SITUATED
from manualbp.parity.cli.options import UsageError


def fake(said: Mapping[str, bool]) -> dict[str, Judge]:
    def saying(answer: bool) -> Judge:
        return lambda pair: answer

    return {name: saying(answer) for name, answer in said.items()}


def test_the_numbers_come_from_the_judges() -> None:
    """One that always shouts has all faults, one that sleeps has none, whatever its name."""
    chosen = [f for f in FAULTS if (f.subject, f.name) == ("cumulative sum", "sum not reversed")]
    outcomes = results.judged_faults(chosen, fake({"ours": False, "loud": True}), 0)
    found = Results(outcomes, pairs=1, alarms={"ours": 0})
    assert [found.caught("loud", s) for s in STRENGTHS] == [1, 1, 1, 1]
    assert [found.caught("ours", s) for s in STRENGTHS] == [0, 0, 0, 0]
    assert not found.passes
    assert command.family(found, "Functions").rows[0][-2:] == [". . . .", "x x x x"]
    why = command.missed(found).rows
    assert len(why) == 4 and "may be rounding" in why[0][3]


def test_a_fault_in_a_situation_counts_for_every_judge_that_saw_it() -> None:
    chosen = [f for f in SITUATED if f.name == "eats what it saved"]
    shown = results.judged_situations(chosen, fake({"ours": True, "blind": False}), 0)
    found = Results(pairs=1, alarms={"ours": 0}, situated=shown)
    assert (found.shown("ours"), found.shown("blind")) == (1, 0) and found.passes
    assert command.situations(found).rows[0][-2:] == ["x", "."]
    assert "second backward" in shown[0].words
    assert [row[-2] for row in command.summary(found).rows] == ["1", "0"]
    asleep = results.judged_situations(chosen, fake({"ours": False}), 0)
    assert not Results(pairs=1, alarms={"ours": 0}, situated=asleep).passes


def test_the_last_line_says_why_what_is_not_caught_is_no_failure() -> None:
    found = Results([outcome(True, True, False)] * 3, 500, {"ours": 0})
    line = command.verdict(found)
    assert line.startswith("passes: 3 of 3 faults caught as they are, 3 at 1 %, 0 of 0 in")
    assert line.endswith("6 of 6 smaller ones, each below what rounding may do there, which is "
                         "no failure")  # fmt: skip
    assert "not caught" not in command.verdict(Results([outcome(True, True, True)], 1, {"ours": 0}))


def test_of_many_that_were_missed_the_first_are_listed() -> None:
    found = Results([outcome(True, True, False)] * 20)
    table = command.missed(found)
    assert table.title == "Missed by ours, 12 of 40" and len(table.rows) == 12
    found = Results([outcome(True, True, False)] * 20 + [outcome(False, True, True)])
    assert command.missed(found).rows[0][2] == "gross"


def test_a_fault_without_effect_is_an_error_of_the_table() -> None:
    nothing = Fault("MLP", "MLP, tanh", "layer 1", "no bug", lambda v: {"w": v.right["w"]})
    with pytest.raises(ValueError, match="MLP, tanh: no bug to change a gradient, got the right"):
        results.judged_faults([nothing], JUDGES, 0)


def outcome(gross: bool, percent: bool, small: bool) -> Outcome:
    said = dict(zip(STRENGTHS, (gross, percent, small, small), strict=True))
    caught = {s: {"ours": answer} for s, answer in said.items()}
    return Outcome("MLP", "MLP, tanh", "layer 1", "f", 1.0, caught,
                   {s: "rounding" for s, answer in said.items() if not answer})  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "alarms", "passes"),
    [
        ((True, True, True), 0, True),
        ((True, True, False), 4, True),  # the smallest may be below rounding
        ((True, False, True), 0, False),
        ((False, True, True), 0, False),
        ((True, True, True), 5, False),  # 1 % of 500
    ],
)
def test_what_passes(
    seen: tuple[bool, bool, bool], alarms: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = [Alarm("pair", "reason")] * alarms
    found = Results([outcome(*seen)], 500, {"ours": alarms}, false)
    assert found.passes is passes and command.verdict(found).startswith("passes") is passes
    monkeypatch.setattr(results, "judged_faults", lambda *_: found.outcomes)
    monkeypatch.setattr(results, "judged_situations", lambda *_: [])
    monkeypatch.setattr(results, "judged_pairs", lambda *_: found)
    assert main(["power", "--quick"]) == (0 if passes else 1)


@pytest.mark.slow
def test_quick_runs_to_its_end_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "QUICK_PAIRS", 5)
    out = tmp_path / "new" / "folder"
    assert main(["power", "--quick", "--family", "LayerNorm", "--out", str(out)]) == 0
    printed, page = capsys.readouterr().out, (out / "power.md").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["power.json", "power.md"]
    record = json.loads((out / "power.json").read_text())
    assert record["passes"] and record["pairs"] == 5 and len(record["outcomes"]) == 4
    for text in (printed, page):
        assert "eps forgotten in rstd" in text and "false alarms" in text and "passes:" in text
    assert re.search(r"\| ours \| 4 \| 4 \| 4 \| \d \| 0 \| 0 \|", page)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--family", "MPL"], "expected a family out of MLP, LayerNorm"),
        (["--seed", "-1"], "expected a whole number of at least 0"),
        (["--out", "file"], "choose another --out"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert main(["power", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and line in error and error.count("\n") == 1


def test_a_record_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = Results([outcome(True, True, True)], 1, {"ours": 0})
    with pytest.raises(UsageError, match="choose another --out"):
        write_files(tmp_path / "file", {"power.md": command.page(found)}, "--out")
    assert STRENGTHS["gross"] is None
