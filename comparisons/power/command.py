"""Does the harness catch planted faults, and does it leave correct pairs alone?

Backward passes written by hand (operations/, in the networks of networks.py) get one fault each
(faults.py): the bug as it is, gross, or blended down to 1 %, 1e-4 and 1e-6 of the gradient. Our
harness and the judges that others use judge each (judges.py, close.py). Other faults are right in
one plain forward and backward, and show in a situation alone (situations/). Pairs that differ in
rounding alone (equivalences.py, correct_pairs.py) show the false alarms.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch

from comparisons import machine
from comparisons.output import Table, json_text, markdown_values, write_files
from comparisons.power import correct_pairs, results
from comparisons.power.faults import FAMILIES, FAULTS, STRENGTHS
from comparisons.power.judges import JUDGES, LEARNING_RATE, STEPS
from comparisons.power.results import FALSE_ALARMS, OURS, REQUIRED, Results
from comparisons.power.situations.cases import SITUATED, SITUATIONS
from manualbp.parity.cli import options
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.reports.words import scientific
from manualbp.parity.versions import versions

PAIRS, QUICK_PAIRS = 600, 100
QUICK_STRIDE = 4  # with --quick: the first of every four faults of the catalogue
LISTED = 12  # faults that ours missed, at most
MARKS = {True: "x", False: "."}
HOW = (
    "A strength is rms(change) / rms(gradient) at the fault's site; gross is the bug as it is, "
    "whose own is the column effect: below 1 %, 1 % is more than the bug itself. "
    "ours: compare_gradients, float32. gradcheck: torch.autograd.gradcheck, float64, its "
    "defaults. check_grads: as JAX's, one finite difference along a random direction, float32, "
    "its defaults. The next five hold every gradient beside the reference's, float32. "
    "assert_close: torch.testing.assert_close, its defaults. cosine: 1 - 2 <x, y> / (norm(x)^2 "
    "+ norm(y)^2) < 1e-5, as in Liger's test of its MLP. norm 8 %: the norm of the difference "
    "over the gradient's, as in Megatron's test of its optimizer. times size: 2e-3 times the "
    "number of elements, absolute and relative, as JAX holds arrays together. twice: the largest "
    "error from float64 is at most twice the reference's own, as in FlashAttention's tests. "
    f"loss: {STEPS} steps of SGD with learning rate {LEARNING_RATE}, a loss that far "
    "from the reference's, relatively. The same networks, numbers and batches for all."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which faults, how many pairs, and where the record goes."""
    add = parser.add_argument
    add("--family", type=options.one_of((*FAMILIES, SITUATIONS), "a family"),
        help=f"of this alone: {', '.join((*FAMILIES, SITUATIONS))} (default: all)")  # fmt: skip
    add("--quick", action="store_true",
        help=f"three minutes instead of ten: every {QUICK_STRIDE}th fault, {QUICK_PAIRS} pairs, "
        "no torch.compile")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="of parameters, data and pairs (default: 0)")
    add("--out", type=options.folder("--out"), metavar="FOLDER",
        help="a folder for power.md and power.json (default: none)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Judge, print, write; 0 where ours sees what it must and seldom cries wolf, else 1."""
    start = time.perf_counter()
    faults = [f for f in FAULTS if args.family in (None, f.family)]
    situated = SITUATED if args.family in (None, SITUATIONS) else ()
    if args.quick:
        situated = situated[::QUICK_STRIDE]
        faults, count, note = faults[::QUICK_STRIDE], QUICK_PAIRS, "no torch.compile with --quick"
    else:
        count, note = PAIRS, machine.no_compiler(torch.device("cpu")) or ""
    # A planted fault may give the loss an output of another shape: that is what is judged.
    warnings.filterwarnings("ignore", "Using a target size", UserWarning)
    outcomes = results.judged_faults(faults, JUDGES, args.seed)
    cases = correct_pairs.pair_cases(count, args.seed, compiling=not note)
    shown = results.judged_situations(situated, JUDGES, args.seed)
    found = results.judged_pairs(cases, Results(outcomes, situated=shown))
    seconds = f"{time.perf_counter() - start:.0f}, {torch.get_num_threads()} threads"
    found.settings = {"seed": str(args.seed), "seconds": seconds, **versions()}
    found.settings |= {"note": note} if note else {}
    for table in tables(found):
        print_table(*table)
    print(verdict(found))
    if args.out:
        texts = {"power.md": page(found), "power.json": json_text(found.record())}
        write_files(args.out, texts, "--out")
    return 0 if found.passes else 1


def tables(results: Results) -> list[Table]:
    """One table of faults for each family, the summary, and what ours got wrong if anything."""
    families = dict.fromkeys(outcome.family for outcome in results.outcomes)
    found = [family(results, name) for name in families] + [situations(results)]
    found = [table for table in found if table.rows] + [summary(results)]
    return found + [table for table in (missed(results), alarms(results)) if table.rows]


def judges(results: Results) -> list[str]:
    """In the order they were asked."""
    if results.outcomes:
        return list(results.outcomes[0].caught["gross"])
    return list(results.situated[0].caught if results.situated else results.alarms)


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


def situations(results: Results) -> Table:
    """A line for each fault that is right in one plain forward and backward, or nearly."""
    names = judges(results)
    return Table(
        "Faults that show in a situation alone, or in a small gradient: caught (x) or not (.)",
        ["situation", "fault", *(judge.replace("_", "_\n") for judge in names)],
        [
            [fault.where, fault.fault, *(MARKS[fault.caught[judge]] for judge in names)]
            for fault in results.situated
        ],
    )


def summary(results: Results) -> Table:
    """Caught, of how many faults, and false alarms, of how many correct pairs."""
    n, m = len(results.outcomes), len(results.situated)
    return Table(
        f"Caught of {n} faults at each strength, and of {m} in situations; false alarms of "
        f"{results.pairs} correct pairs",
        ["judge", *STRENGTHS, "situations", "false alarms"],
        [
            [judge, *(str(results.caught(judge, s)) for s in STRENGTHS),
             str(results.shown(judge)), str(results.alarms.get(judge, "-"))]
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
    count, situated = len(results.outcomes), len(results.situated)
    as_it_is, percent = (results.caught(OURS, s) for s in REQUIRED)
    small = [s for s in STRENGTHS if s not in REQUIRED]
    missed = sum(s in o.missed for o in results.outcomes for s in small)
    rest = (
        f"; not caught: {missed} of {len(small) * count} smaller ones, each below what rounding "
        "may do there, which is no failure" if missed else ""
    )  # fmt: skip
    return (
        f"{'passes' if results.passes else 'FAILS'}: {as_it_is} of {count} faults caught as "
        f"they are, {percent} at 1 %, {results.shown(OURS)} of {situated} in situations, "
        f"{results.alarms[OURS] / results.pairs:.2%} false alarms; expected all of them and under "
        f"{FALSE_ALARMS:.0%} false alarms{rest}"
    )


def page(results: Results) -> str:
    """Everything in Markdown."""
    parts = ["# Power: planted faults and correct pairs", verdict(results), HOW]
    for table in tables(results):
        parts += [f"**{table.title}**", table.markdown()]
    return "\n\n".join([*parts, markdown_values("setting", results.settings)]) + "\n"
