"""Does the harness catch planted faults, and does it leave correct pairs alone?

Hand-written backward passes of five families (operations.py, subjects.py) get one fault each
(planted.py), gross or blended down to 1 %, 1e-4 and 1e-6 of the gradient (faults.py), and go before
our harness, gradcheck, assert_close and the comparison of loss curves (judges.py). Correct pairs
that differ in rounding alone (kinds.py, pairs.py) count the false alarms.
"""

from __future__ import annotations

import argparse
import time

import torch

from comparisons.power import measure, pairs, tables
from comparisons.power.judges import JUDGES
from comparisons.power.measure import Results
from comparisons.power.planted import FAMILIES, FAULTS
from comparisons.speed.arms import Compiler
from manualbp.parity.cli import options
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.versions import versions

PAIRS, QUICK_PAIRS = 500, 100
QUICK_STRIDE = 4  # with --quick, every so many faults of a family


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which faults, how many pairs, and where the record goes."""
    add = parser.add_argument
    add("--family", type=options.one_of(FAMILIES, "a family"),
        help=f"faults of this one alone: {', '.join(FAMILIES)} (default: all)")  # fmt: skip
    add(
        "--quick",
        action="store_true",
        help=f"half a minute instead of three: every {QUICK_STRIDE}th fault, {QUICK_PAIRS} pairs, "
        "no torch.compile",
    )
    add("--seed", type=options.seed, default=0, help="of parameters, data and pairs (default: 0)")
    add("--out", type=options.folder("--out"), metavar="FOLDER",
        help="a folder for power.md and power.json (default: none)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Judge, print, write; 0 where ours sees what it must and seldom cries wolf, else 1."""
    start = time.perf_counter()
    faults = [f for f in FAULTS if args.family in (None, f.family)]
    if args.quick:
        faults, count, note = faults[::QUICK_STRIDE], QUICK_PAIRS, "no torch.compile with --quick"
    else:
        count, note = PAIRS, Compiler().missing(torch.device("cpu")) or ""
    outcomes = measure.judged_faults(faults, JUDGES, args.seed)
    cells = pairs.cells(count, args.seed, compiling=not note)
    results = measure.judged_pairs(cells, Results(outcomes))
    seconds = f"{time.perf_counter() - start:.0f}, {torch.get_num_threads()} threads"
    results.settings = {"seed": str(args.seed), "seconds": seconds, **versions()}
    results.settings |= {"note": note} if note else {}
    for table in tables.of(results):
        print_table(*table)
    print(tables.verdict(results))
    if args.out:
        print("Written: " + ", ".join(map(str, tables.write(results, args.out))))
    return 0 if results.passes else 1
