"""What the judges said of every fault and every correct pair, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from comparisons.power import correct_pairs
from comparisons.power.correct_pairs import PairCase, correct_pair
from comparisons.power.faults import STRENGTHS, Fault, effect
from comparisons.power.judges import Judge, Pair, assert_close, compared
from comparisons.power.networks import by_hand
from manualbp.parity.cli.progress import track
from manualbp.parity.record import DIFFER, GradientReport
from manualbp.parity.reports.words import scientific

OURS, CLOSE = "ours", "assert_close"
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

    def caught(self, judge: str, strength: str) -> int:
        """How many faults a judge caught at a strength."""
        return sum(outcome.caught[strength][judge] for outcome in self.outcomes)

    @property
    def passes(self) -> bool:
        """Ours caught every gross and 1 % fault, and cried wolf in less than 1 % of the pairs."""
        all_caught = all(o.caught[s][OURS] for o in self.outcomes for s in REQUIRED)
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
    false, close = [], 0
    for case in track(cases, "correct pairs"):
        pair = correct_pairs.make(case)
        report = compared(pair)
        close += assert_close(pair)
        if report.verdict == DIFFER:
            words = "; ".join(f"{tensor.name}: {tensor.reason}" for tensor in report.differing)
            false.append(Alarm(str(case), words))
    alarms = {OURS: len(false), CLOSE: close}
    return replace(results, pairs=len(cases), alarms=alarms, false=false)
