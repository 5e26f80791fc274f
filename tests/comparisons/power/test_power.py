"""The power comparison: its faults are faults, its numbers come from the judges, its code obeys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from comparisons.cli import main
from comparisons.power import command as power
from comparisons.power import correct_pairs as pairs
from comparisons.power import judges, tables
from comparisons.power import results as measure
from comparisons.power.faults import fault as faults
from comparisons.power.faults.fault import STRENGTHS, Fault, blended, effect, rms
from comparisons.power.faults.layers import FAMILIES, FAULTS
from comparisons.power.judges import JUDGES, Judge, Pair
from comparisons.power.networks import SUBJECTS, by_hand, problem
from comparisons.power.results import Alarm, Outcome, Results

ALL = {f"{f.subject}: {f.name}": f for f in FAULTS}


def correct(name: str) -> Pair:
    given = problem(name, 0)
    return Pair(by_hand(given.reference), given.reference, given.loss, given.batches)


def planted(fault: Fault, strength: float | None) -> Pair:
    given = problem(fault.subject, 0)
    candidate = by_hand(given.reference, fault.site, fault.at(strength))
    return Pair(candidate, given.reference, given.loss, given.batches)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_backward_without_fault_is_left_alone_by_every_judge(name: str) -> None:
    assert [judge for judge, ask in JUDGES.items() if ask(correct(name))] == []


@pytest.mark.parametrize("name", ALL)
def test_every_fault_changes_a_gradient(name: str) -> None:
    """By more than rounding in float32, so that it can be seen at all."""
    assert effect(ALL[name], problem(ALL[name].subject, 0, 1)) > 1e-4


def test_the_table_has_enough_faults_of_every_family_each_named_once() -> None:
    assert len(FAULTS) >= 40 and len(ALL) == len(FAULTS)
    assert {f.family for f in FAULTS} == set(FAMILIES)
    assert {f.subject for f in FAULTS} == set(SUBJECTS)
    assert all(f.site in problem(f.subject, 0, 1).reference.sites for f in FAULTS)


@pytest.mark.parametrize("strength", [1e-2, 1e-4])
@pytest.mark.parametrize("missing", [False, True])
def test_blending_has_the_relative_size_that_was_asked_for(strength: float, missing: bool) -> None:
    """float64: equal to 12 digits."""
    g, w = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    change = blended(g, None if missing else 1e6 * w, strength) - g
    assert rms(change) / rms(g) == pytest.approx(strength, rel=1e-10)


def test_blending_leaves_a_right_gradient_alone() -> None:
    """A fault without effect on these numbers (0 / 0) changes no bit."""
    g = torch.randn(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blended(g, g.clone(), 0.01), g)


def relative(found: Tensor | None, right: Tensor | None) -> float:
    assert found is not None and right is not None
    return rms(found - right) / rms(right)


def test_a_gross_fault_reaches_the_gradient_as_it_is_and_a_blended_one_in_part() -> None:
    """At the last site: in its own gradient, and nowhere else."""
    fault = ALL["convolution: dW: in and out channels swapped"]
    right, *changed = (judges.gradients(p, p.candidate) for p in (
        correct(fault.subject), *(planted(fault, s) for s in STRENGTHS.values())))  # fmt: skip
    names = ["x", *dict(correct(fault.subject).reference.named_parameters())]
    for found, strength in zip(changed, STRENGTHS.values(), strict=True):
        apart = dict(zip(names, map(relative, found, right), strict=True))
        assert {name for name, size in apart.items() if size} == {"w1"}
        size = strength or effect(fault, problem("convolution", 0))
        # beside the change stands the rounding of float32, half an ulp: 6e-8 of the gradient
        assert apart["w1"] == pytest.approx(size, abs=2.0**-24, rel=1e-4)


def test_ours_sees_a_fault_where_gradients_vanish_and_absolute_tolerances_do_not() -> None:
    pair = planted(ALL["8 layers of sigmoid: dW of the other sign"], None)
    assert JUDGES["ours"](pair) and not JUDGES["assert_close"](pair)


def test_a_missing_gradient_is_caught_by_all_that_look_at_gradients() -> None:
    pair = planted(ALL["MLP, tanh: db missing"], None)
    assert all(JUDGES[name](pair) for name in ("ours", "gradcheck", "assert_close"))


def test_a_loss_that_turns_nan_is_caught() -> None:
    pair = correct("SwiGLU")
    with torch.no_grad():
        pair.candidate.get_parameter("g").fill_(float("nan"))
    assert JUDGES["loss 5 %"](pair)


def fake(said: Mapping[str, bool]) -> dict[str, Judge]:
    def saying(answer: bool) -> Judge:
        return lambda pair: answer

    return {name: saying(answer) for name, answer in said.items()}


def test_the_numbers_come_from_the_judges() -> None:
    """One that always shouts has all faults, one that sleeps has none, whatever its name."""
    chosen = [ALL["cumulative sum: sum not reversed"]]
    outcomes = measure.judged_faults(chosen, fake({"ours": False, "loud": True}), 0)
    results = Results(outcomes, pairs=1, alarms={"ours": 0})
    assert [results.caught("loud", s) for s in STRENGTHS] == [1, 1, 1, 1]
    assert [results.caught("ours", s) for s in STRENGTHS] == [0, 0, 0, 0]
    assert not results.passes
    assert tables.family(results, "Functions").rows[0][-2:] == [". . . .", "x x x x"]
    why = tables.missed(results).rows
    assert len(why) == 4 and "may be rounding" in why[0][3]


def test_of_many_that_were_missed_the_first_are_listed() -> None:
    results = Results([outcome(True, True, False)] * 20)
    table = tables.missed(results)
    assert table.title == "Missed by ours, 12 of 40" and len(table.rows) == 12
    results = Results([outcome(True, True, False)] * 20 + [outcome(False, True, True)])
    assert tables.missed(results).rows[0][2] == "gross"


def test_a_fault_without_effect_is_an_error_of_the_table() -> None:
    nothing = Fault("MLP", "MLP, tanh", "layer 1", "no bug", lambda v: {"w": v.right["w"]})
    with pytest.raises(ValueError, match="MLP, tanh: no bug to change a gradient, got the right"):
        measure.judged_faults([nothing], JUDGES, 0)


def test_pairs_differ_from_one_another_and_come_from_the_seed_alone() -> None:
    cells = pairs.cells(500, 0)
    assert len(set(cells)) == 500 and cells == pairs.cells(500, 0) != pairs.cells(500, 1)
    drawn = [(c.kind, c.dtype, pairs.make(c).batches[0][0][0]) for c in cells
             if c.kind not in pairs.OF_COMPILED]  # fmt: skip
    for i, (kind, dtype, x) in enumerate(drawn):
        alike = [
            y for other, its, y in drawn[:i] if (other, its, y.shape) == (kind, dtype, x.shape)
        ]
        assert not any(torch.equal(x, y) for y in alike), (kind, dtype)
    assert {c.dtype for c in cells} == set(pairs.SCALES)


def plainest(kinds: list[str], dtype: torch.dtype) -> Results:
    """7 rows of size 1."""
    return measure.judged_pairs([pairs.Cell(kind, dtype, 7, 1.0, 0) for kind in kinds], Results())


def test_plain_pairs_agree() -> None:
    assert plainest(list(pairs.MAKERS)[::4], torch.float32).false == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", pairs.SCALES, ids=str)
def test_every_kind_of_pair_agrees_at_its_plainest(dtype: torch.dtype) -> None:
    assert plainest([*pairs.MAKERS, *pairs.OF_SUBJECTS], dtype).false == []


def test_a_false_alarm_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(cell: pairs.Cell) -> Pair:
        reference, other = nn.Linear(3, 2), nn.Linear(3, 2)
        other.load_state_dict(reference.state_dict())
        for parameter in other.parameters():
            parameter.register_hook(lambda g: 2 * g)
        return Pair(other, reference, None, (((torch.randn(4, 3),), None),))

    monkeypatch.setattr(pairs, "MAKERS", {"doubled": wrong})
    found = measure.judged_pairs([pairs.Cell("doubled", torch.float32, 4, 1.0, 0)], Results())
    assert found.alarms == {"ours": 1, "assert_close": 1} and not found.passes
    assert "doubled, float32, 4 rows" in found.false[0].pair
    assert "weight.grad" in tables.alarms(found).rows[0][1]


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
    results = Results([outcome(*seen)], 500, {"ours": alarms}, false)
    assert results.passes is passes and tables.verdict(results).startswith("passes") is passes
    monkeypatch.setattr(measure, "judged_faults", lambda *_: results.outcomes)
    monkeypatch.setattr(measure, "judged_pairs", lambda *_: results)
    assert main(["power", "--quick"]) == (0 if passes else 1)


def test_quick_runs_to_its_end_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "QUICK_PAIRS", 5)
    out = tmp_path / "new" / "folder"
    assert main(["power", "--quick", "--family", "LayerNorm", "--out", str(out)]) == 0
    printed, page = capsys.readouterr().out, (out / "power.md").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["power.json", "power.md"]
    record = json.loads((out / "power.json").read_text())
    assert record["passes"] and record["pairs"] == 5 and len(record["outcomes"]) == 4
    for text in (printed, page):
        assert "eps forgotten in rstd" in text and "false alarms" in text and "passes:" in text
    assert re.search(r"\| ours \| 4 \| 4 \| 4 \| \d \| 0 \|", page)


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
    results = Results([outcome(True, True, True)], 1, {"ours": 0})
    with pytest.raises(Exception, match="choose another --out"):
        tables.write(results, tmp_path / "file")
    assert faults.STRENGTHS["gross"] is None
