"""What the judges said of every fault and every correct pair, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from comparisons.power import correct_pairs
from comparisons.power.close import CLOSE
from comparisons.power.correct_pairs import PairCase, correct_pair
from comparisons.power.faults import STRENGTHS, Fault, effect
from comparisons.power.judges import Judge, compared
from comparisons.power.networks import by_hand
from comparisons.power.pair import Pair
from comparisons.power.situations.cases import Situated
from manualbp.parity.cli.progress import track
from manualbp.parity.record import DIFFER, GradientReport
from manualbp.parity.reports.page import verdict_sentence
from manualbp.parity.reports.words import scientific

OURS = "ours"
# People switch off a checker that cries wolf more often.
FALSE_ALARMS = 0.01
# The strengths at which ours must catch every fault.
REQUIRED = ("gross", "1 %")


@dataclass(frozen=True)
class Outcome:
    """One fault: its relative effect (rms), and who caught it at which strength."""

    family: str
    subject: str
    site: str
    fault: str
    effect: float
    caught: Mapping[str, Mapping[str, bool]]  # strength -> judge -> caught
    missed: Mapping[str, str]  # strength -> what ours says of the tensor nearest to its limit


@dataclass(frozen=True)
class Shown:
    """A fault that shows in a situation alone, who caught it, and what ours says of it."""

    where: str
    fault: str
    caught: Mapping[str, bool]
    words: str


@dataclass(frozen=True)
class Alarm:
    """A correct pair that ours calls different, and its reasons."""

    pair: str
    reason: str


@dataclass
class Results:
    """``alarms``: how many of all ``pairs`` a judge called different; ``false`` lists ours."""

    outcomes: Sequence[Outcome] = ()
    pairs: int = 0
    alarms: Mapping[str, int] = field(default_factory=dict)
    false: Sequence[Alarm] = ()
    settings: dict[str, str] = field(default_factory=dict)
    situated: Sequence[Shown] = ()

    def caught(self, judge: str, strength: str) -> int:
        """How many faults a judge caught at a strength."""
        return sum(outcome.caught[strength][judge] for outcome in self.outcomes)

    def shown(self, judge: str) -> int:
        """How many of the faults that show in a situation alone a judge caught."""
        return sum(fault.caught[judge] for fault in self.situated)

    @property
    def passes(self) -> bool:
        """Ours caught all that it must, and cried wolf in less than 1 % of the pairs.

        It must catch every fault as it is and at 1 %, and in its situation.
        """
        all_caught = all(o.caught[s][OURS] for o in self.outcomes for s in REQUIRED)
        all_caught = all_caught and self.shown(OURS) == len(self.situated)
        return all_caught and self.alarms[OURS] < FALSE_ALARMS * self.pairs

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"passes": self.passes}


def judged_faults(faults: Sequence[Fault], judges: Mapping[str, Judge], seed: int) -> list[Outcome]:
    """Every fault at every strength before every judge, on the same pair and data.

    Raises:
        ValueError: a fault changes nothing, so that nobody could catch it.
    """
    right = {name: correct_pair(name, seed) for name in dict.fromkeys(f.subject for f in faults)}
    return [_judged(f, right[f.subject], judges) for f in track(faults, "planting faults")]


def _judged(fault: Fault, right: Pair, judges: Mapping[str, Judge]) -> Outcome:
    size = effect(fault, right)
    if not size > 0:
        raise ValueError(
            f"expected {fault.subject}: {fault.name} to change a gradient, got the right ones; "
            "plant it where it counts, or take it out"
        )
    caught: dict[str, dict[str, bool]] = {}
    missed = {}
    for strength, share in STRENGTHS.items():
        pair = planted(right, fault, share)
        caught[strength] = {name: judge(pair) for name, judge in judges.items()}
        if not caught[strength][OURS]:
            missed[strength] = nearest(compared(pair))
    return Outcome(fault.family, fault.subject, fault.site, fault.name, size, caught, missed)


def judged_situations(
    faults: Sequence[Situated], judges: Mapping[str, Judge], seed: int
) -> list[Shown]:
    """Every fault that shows in a situation alone, before every judge on the same pair and data."""
    return [
        Shown(
            fault.where, fault.name,
            {name: judge(fault.make(seed)) for name, judge in judges.items()},
            verdict_sentence(compared(fault.make(seed))),
        )
        for fault in track(faults, "situations")
    ]  # fmt: skip


def planted(right: Pair, fault: Fault, strength: float | None) -> Pair:
    """The pair with the fault in its candidate."""
    return replace(right, candidate=by_hand(right.reference, fault.site, fault.at(strength)))


def nearest(report: GradientReport) -> str:
    """Why nothing was seen: the largest error, against what rounding may do."""
    worst = max(report.tensors, key=lambda tensor: tensor.share)
    return (
        f"{worst.name} has the error {scientific(worst.candidate_error)}, "
        f"and {scientific(worst.allowed)} may be rounding"
    )


def judged_pairs(cases: Sequence[PairCase], results: Results) -> Results:
    """The results with the false alarms on these correct pairs."""
    false, alarms = [], dict.fromkeys((OURS, *CLOSE), 0)
    for case in track(cases, "correct pairs"):
        pair = correct_pairs.make(case)
        report = compared(pair)
        for name, judge in CLOSE.items():
            alarms[name] += judge(pair)
        if report.verdict == DIFFER:
            found = {tensor.name: tensor.reason for tensor in report.differing}
            found |= {situation.name: situation.words for situation in report.failed}
            words = "; ".join(f"{name}: {reason}" for name, reason in found.items())
            false.append(Alarm(str(case), words))
    alarms[OURS] = len(false)
    return replace(results, pairs=len(cases), alarms=alarms, false=false)
