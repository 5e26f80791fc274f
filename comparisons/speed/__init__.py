"""How long a step takes and how much memory, side by side in one process.

The arms are in arms.py (nn.Sequential eager and compiled, ours in three ways), graphs.py (both as
CUDA graphs, on a GPU) and peers.py (JAX, scikit-learn); what is measured is in grid.py, with more
rows on a GPU. The arms take turns, round after round, so that what slows the machine down slows all
of them. A figure is the median over the rounds; a ratio is the median of each round's own ratio,
with half the distance of their quartiles as its spread. Not yet measured on a GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from comparisons import machine
from comparisons.speed import cells, files, floor, grid, results, tables
from comparisons.speed.floor import Rates
from comparisons.speed.grid import Row
from comparisons.speed.steps import STEPS
from comparisons.speed.timing import Budget
from manualbp.parity.cli import options
from manualbp.parity.cli.progress import track
from manualbp.parity.reports.terminal import print_table

# Seconds per cell, and rounds at most and at least; compiling and warming up are not in them.
FULL = {"rows": Budget(15, 15, 5), "second-order": Budget(5, 15, 5)}
QUICK = {"rows": Budget(1, 5, 2), "second-order": Budget(0.5, 5, 2)}
SWEEP, SWEEP_QUICK = Budget(1.5, 11, 3), Budget(0.15, 5, 2)
PRODUCT, PRODUCT_QUICK = 0.3, 0.05  # seconds for every product whose rate is measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, how long, on what, and where it goes."""
    add = parser.add_argument
    parts = list(dict.fromkeys([*grid.PARTS, *grid.ON_GPU]))
    add("--only", type=options.one_of(parts, "a part"), action="append", metavar="PART",
        help=f"only this part, once or more: {', '.join(parts)} (default: all that the device has; "
        "gpu, long batches and tiny networks, and more dtypes with --device cuda)")  # fmt: skip
    add("--step", type=options.one_of(STEPS, "a step"), help=f"only this one: {', '.join(STEPS)}")
    add(
        "--quick",
        action="store_true",
        help="a minute or two instead of ten, rougher figures: no torch.compile, every second cell "
        "of a sweep, and of those the short ones",
    )
    add("--rounds", type=options.positive_int,
        help="turns of every arm (default: as many as time allows, 2 to 15)")  # fmt: skip
    add("--device", type=options.device, default=torch.device("cpu"),
        help="cpu, cuda or cuda:N, where there are CUDA graphs and max-autotune, too "
        "(default: cpu)")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="of weights and data (default: 0)")
    add("--threads", type=options.positive_int, help="CPU threads (default: PyTorch's own choice)")
    add("--read", type=Path, metavar="FILE",
        help="an earlier run's speed.json: its tables and figures again")  # fmt: skip
    options.add_run_arguments(parser, "speed[-GPU]")
    add("--output", type=options.folder("--output"), metavar="FOLDER",
        help="a new folder for tables and figures (default: the run's)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 0, since a slow result is a result, and 130 after Ctrl-C."""
    earlier = files.read(args.read) if args.read else None
    device = earlier["machine"]["device"] if earlier else machine.name(args.device)
    name = args.run_name or machine.stamped("speed", device)
    files.check_new(args.log_dir, name, args.output)
    written, interrupted = (earlier, False) if earlier else measure(args)
    show(written)
    if written["cells"]:
        log = files.write(written, args.log_dir, name, args.output)
        print(f"Written: {args.output or log.path}")
        print(options.tensorboard_hint(log.path))
    return 130 if interrupted else 0


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The record of what was measured, and whether Ctrl-C ended it."""
    wanted = chosen(args)
    _prepare(args)
    found: list[results.Result] = []
    rates: Rates | None = None
    notes: list[str] = []
    interrupted = False
    try:
        rates = _rates(wanted, args)
        makers = cells.Makers(wanted, args.device, compiling=not args.quick)
        notes = makers.notes
        most = grid.largest(args.device)
        for part, row in track(wanted, "measuring"):
            least = max(floor.floors(row, rates).values(), default=None)
            if reason := grid.too_large(part, row, least, args.quick, most):
                notes.append(f"left out of {part}: {reason}")
                continue
            budget_of_cell = _budget(part, args)
            cell = cells.measured(part, row, makers, budget_of_cell, args.seed, args.device)
            found += [cell] if cell else []
        rates = rates.raised(_rates(wanted, args))
    except KeyboardInterrupt:
        interrupted = True
        notes.append(f"interrupted after {len(found)} of {len(wanted)} cells")
    if rates:
        found = [replace(result, floors=floor.floors(result.row, rates)) for result in found]
    return results.record(found, machine.description(args.device), rates, notes), interrupted


def _prepare(args: argparse.Namespace) -> None:
    """Threads, and the device whose streams the clock, the graphs and the compilers take."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.type == "cuda":
        torch.cuda.set_device(args.device.index or 0)


def _rates(wanted: list[tuple[str, Row]], args: argparse.Namespace) -> Rates:
    """At the start, to judge what takes too long, and at the end."""
    budget = PRODUCT_QUICK if args.quick else PRODUCT
    return floor.measured((row.dtype for _, row in wanted), args.device, budget)


def chosen(args: argparse.Namespace) -> list[tuple[str, Row]]:
    """The cells that were asked for."""
    gpu = args.device.type == "cuda"
    if not gpu and "gpu" in (args.only or ()):
        raise options.UsageError(
            f"expected --device cuda for --only gpu, got {args.device}; leave out one of the two"
        )
    wanted = grid.cells(args.only, args.step, args.quick, gpu)
    if not wanted:
        parts = " and ".join(args.only)
        raise options.UsageError(
            f"expected a part that has the step {args.step}, got --only {parts}; "
            "leave out one of the two"
        )
    return wanted


def _budget(part: str, args: argparse.Namespace) -> Budget:
    table, sweep = (QUICK, SWEEP_QUICK) if args.quick else (FULL, SWEEP)
    budget = table.get(part, sweep)
    return budget._replace(most=args.rounds, least=args.rounds) if args.rounds else budget


def show(written: dict[str, Any]) -> None:
    """Every table, the means, and who was absent."""
    found = results.from_record(written)
    for table in tables.of(found):
        print_table(*table)
    means = results.geometric_means([result for result in found if result.part in grid.TABLE])
    for line in (*means.splitlines(), *written["notes"], machine.line(written["machine"])):
        print(line)
