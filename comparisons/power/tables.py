"""The results as tables, for the terminal and for power.md."""

from __future__ import annotations

from comparisons.output import Table, markdown_values
from comparisons.power.faults import STRENGTHS
from comparisons.power.judges import LEARNING_RATE, STEPS
from comparisons.power.results import FALSE_ALARMS, OURS, REQUIRED, Results
from manualbp.parity.reports.words import scientific

LISTED = 12  # faults that ours missed, at most
MARKS = {True: "x", False: "."}


def of(results: Results) -> list[Table]:
    """One table of faults for each family, the summary, and what ours got wrong if anything."""
    families = dict.fromkeys(outcome.family for outcome in results.outcomes)
    found = [family(results, name) for name in families] + [summary(results)]
    return found + [table for table in (missed(results), alarms(results)) if table.rows]


def judges(results: Results) -> list[str]:
    """In the order they were asked."""
    return list(results.outcomes[0].caught["gross"]) if results.outcomes else list(results.alarms)


def family(results: Results, name: str) -> Table:
    """A line for each fault, a mark for each strength and judge."""
    names = judges(results)
    return Table(
        f"{name}: caught (x) or not (.), {', '.join(STRENGTHS)}",
        ["subject", "fault", "effect", *(judge.replace("_", "_\n") for judge in names)],
        [
            [outcome.subject, outcome.fault, scientific(outcome.effect),
             *(" ".join(MARKS[outcome.caught[s][judge]] for s in STRENGTHS) for judge in names)]
            for outcome in results.outcomes if outcome.family == name
        ],
    )  # fmt: skip


def summary(results: Results) -> Table:
    """Caught, of how many faults, and false alarms, of how many correct pairs."""
    n = len(results.outcomes)
    return Table(
        f"Caught of {n} faults at each strength; false alarms of {results.pairs} correct pairs",
        ["judge", *STRENGTHS, "false alarms"],
        [
            [judge, *(str(results.caught(judge, s)) for s in STRENGTHS),
             str(results.alarms.get(judge, "-"))]
            for judge in judges(results)
        ],
    )  # fmt: skip


def missed(results: Results) -> Table:
    """What ours did not see, gross faults first; power.json lists all, where they are many."""
    found = [
        [outcome.subject, outcome.fault, strength, outcome.missed[strength]]
        for strength in STRENGTHS for outcome in results.outcomes if strength in outcome.missed
    ]  # fmt: skip
    title = "Missed by ours" + (f", {LISTED} of {len(found)}" if len(found) > LISTED else "")
    return Table(title, ["subject", "fault", "strength", "why"], found[:LISTED])


def alarms(results: Results) -> Table:
    """Correct pairs that ours called different."""
    return Table(
        "False alarms of ours",
        ["pair", "reason"],
        [[alarm.pair, alarm.reason] for alarm in results.false],
    )


def verdict(results: Results) -> str:
    """The last line, of which the exit code is the short form."""
    rate = results.alarms[OURS] / results.pairs
    needed = f"expected every gross and 1 % fault caught and under {FALSE_ALARMS:.0%} false alarms"
    faults = sum(any(s in o.missed for s in REQUIRED) for o in results.outcomes)
    return (
        f"{'passes' if results.passes else 'FAILS'}: {faults} of {len(results.outcomes)} faults "
        f"missed at gross or 1 %, {rate:.2%} false alarms; {needed}"
    )


def page(results: Results) -> str:
    """Everything in Markdown."""
    parts = ["# Power: planted faults and correct pairs", verdict(results), _how()]
    for table in of(results):
        parts += [f"**{table.title}**", table.markdown()]
    return "\n\n".join([*parts, markdown_values("setting", results.settings)]) + "\n"


def _how() -> str:
    return (
        "A strength is rms(change) / rms(gradient) at the fault's site; gross is the bug as it is, "
        "whose own is the column effect: below 1 %, 1 % is more than the bug itself. "
        "ours: compare_gradients, float32. gradcheck: torch.autograd.gradcheck, float64, its "
        "defaults. assert_close: torch.testing.assert_close on every gradient, float32, its "
        f"defaults. loss: {STEPS} steps of SGD with learning rate {LEARNING_RATE}, a loss that far "
        "from the reference's, relatively. The same networks, numbers and batches for all."
    )
