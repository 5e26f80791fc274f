"""Does the harness catch planted faults, and does it leave correct pairs alone?

Backward passes written by hand (operations/, in the networks of networks.py) get one fault each
(faults.py): the bug as it is, gross, or blended down to 1 %, 1e-4 and 1e-6 of the gradient. Our
harness, gradcheck, assert_close and the comparison of loss curves judge each (judges.py). Pairs
that differ in rounding alone (equivalences.py, correct_pairs.py) show the false alarms.
"""

from __future__ import annotations

import argparse
import time

import torch

from comparisons import machine
from comparisons.output import json_text, write_files
from comparisons.power import correct_pairs, results, tables
from comparisons.power.faults import FAMILIES, FAULTS
from comparisons.power.judges import JUDGES
from comparisons.power.results import Results
from manualbp.parity.cli import options
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.versions import versions

PAIRS, QUICK_PAIRS = 500, 100
QUICK_STRIDE = 4  # with --quick: the first of every four faults of the catalogue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which faults, how many pairs, and where the record goes."""
    add = parser.add_argument
    add("--family", type=options.one_of(FAMILIES, "a family"),
        help=f"faults of this one alone: {', '.join(FAMILIES)} (default: all)")  # fmt: skip
    add("--quick", action="store_true",
        help=f"half a minute instead of three: every {QUICK_STRIDE}th fault, {QUICK_PAIRS} pairs, "
        "no torch.compile")  # fmt: skip
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
        count, note = PAIRS, machine.no_compiler(torch.device("cpu")) or ""
    outcomes = results.judged_faults(faults, JUDGES, args.seed)
    cases = correct_pairs.pair_cases(count, args.seed, compiling=not note)
    found = results.judged_pairs(cases, Results(outcomes))
    seconds = f"{time.perf_counter() - start:.0f}, {torch.get_num_threads()} threads"
    found.settings = {"seed": str(args.seed), "seconds": seconds, **versions()}
    found.settings |= {"note": note} if note else {}
    for table in tables.of(found):
        print_table(*table)
    print(tables.verdict(found))
    if args.out:
        page, record = tables.page(found), json_text(found.record())
        write_files(args.out, {"power.md": page, "power.json": record}, "--out")
    return 0 if found.passes else 1
