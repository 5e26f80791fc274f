"""How long a step takes and how much memory, every arm side by side in one process.

workloads.py has what is measured, arms/ who takes the step: nn.Sequential eager and compiled, ours
in four ways, both as CUDA graphs on a GPU, JAX and scikit-learn; and who takes derivatives by the
input (arms/derivatives.py). Before it is timed every arm has computed the same loss and the same
gradients (arms/agreement.py). A figure is the median over the rounds; a ratio is the median of each
round's own ratio, with half the distance of their quartiles as its spread. Arms take turns, so that
what slows the machine down slows all of them. Not yet measured on a GPU.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from comparisons import machine, output
from comparisons.speed import busy, floor, record, timing, workloads
from comparisons.speed.arms.arm import AUTOGRAD, problem
from comparisons.speed.arms.available import AvailableArms
from comparisons.speed.arms.costs import COSTS
from comparisons.speed.floor import Rates
from comparisons.speed.results import Result, measured_arms
from comparisons.speed.tables import page
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import Workload
from comparisons.stopping import Stopped
from manualbp.parity.cli import options
from manualbp.parity.cli.progress import track
from manualbp.parity.reports.terminal import print_table

# Seconds per workload, and rounds at most and at least; compiling and warming up are not in them.
FULL = {
    "rows": Budget(15, 15, 5), "second-order": Budget(5, 15, 5), "derivatives": Budget(7, 15, 5),
    "busy": Budget(8, 15, 5),
}  # fmt: skip
QUICK = {
    "rows": Budget(1, 5, 2), "second-order": Budget(0.5, 5, 2), "derivatives": Budget(0.5, 5, 2),
    "busy": Budget(1, 5, 3),
}  # fmt: skip
SWEEP, SWEEP_QUICK = Budget(1.5, 11, 3), Budget(0.15, 5, 2)
PRODUCT, PRODUCT_QUICK = 0.3, 0.05  # seconds for every product whose rate is measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, how long, on what, and where it goes."""
    add = parser.add_argument
    parts = list(workloads.PARTS | workloads.ON_GPU | workloads.ON_REQUEST)
    add("--only", type=options.one_of(parts, "a part"), action="append", metavar="PART",
        help=f"only this part, once or more: {', '.join(parts)} (default: all that the device has "
        "but busy, a step beside busy processes; gpu, long batches and tiny networks, and more "
        "dtypes with --device cuda)")  # fmt: skip
    add("--step", type=options.one_of(COSTS, "a step"), help=f"only this one: {', '.join(COSTS)}")
    add("--quick", action="store_true",
        help="two minutes instead of fifteen, rougher figures: no torch.compile, every second cell "
        "of a sweep, and of those the short ones")  # fmt: skip
    add("--rounds", type=options.positive_int,
        help="turns of every arm (default: as many as time allows, 2 to 15)")  # fmt: skip
    add("--device", type=options.device, default=torch.device("cpu"),
        help="cpu, cuda or cuda:N, where there are CUDA graphs and max-autotune, too "
        "(default: cpu)")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="of weights and data (default: 0)")
    add("--threads", type=options.threads, help="CPU threads (default: PyTorch's own choice)")
    add("--read", type=Path, metavar="FILE",
        help="an earlier run's speed.json: its tables and figures again")  # fmt: skip
    options.add_run_arguments(parser, "speed[-GPU]")
    add("--output", type=options.folder("--output"), metavar="FOLDER",
        help="a new folder for tables and figures (default: the run's)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 0 however slow, 1 where an arm differs, and 130 after Ctrl-C."""
    earlier = record.read(args.read) if args.read else None
    device = earlier["machine"]["device"] if earlier else machine.name(args.device)
    name = args.run_name or machine.stamped("speed", device)
    output.check_new(args.log_dir, name, args.output)
    written, interrupted = (earlier, False) if earlier else measure(chosen(args), args)
    results = record.from_record(written)
    try:
        for table in page.of(results, brief=True):
            print_table(*table)
        print(*page.said(written), machine.line(written["machine"]), sep="\n")
    finally:  # also where standard output is closed
        log = record.write(written, args.log_dir, name, args.output) if results else None
    if log:
        print(f"Written: {args.output or log.path}")
        print(options.tensorboard_hint(log.path))
    return 130 if interrupted else int(bool(written["differing"]))


def chosen(args: argparse.Namespace) -> list[tuple[str, Workload]]:
    """The parts and workloads that were asked for."""
    gpu = args.device.type == "cuda"
    if not gpu and "gpu" in (args.only or ()):
        raise options.UsageError(
            f"expected --device cuda for --only gpu, got {args.device}; leave out one of the two"
        )
    wanted = workloads.selected(args.only, args.step, args.quick, gpu)
    if not wanted:
        parts = " and ".join(args.only)
        raise options.UsageError(
            f"expected a part that has the step {args.step}, got --only {parts}; "
            "leave out one of the two"
        )
    return wanted


def measure(
    wanted: list[tuple[str, Workload]], args: argparse.Namespace
) -> tuple[dict[str, Any], bool]:
    """The record of what was measured, and whether Ctrl-C ended it."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.type == "cuda":  # the clock, the graphs and the compilers take its streams
        torch.cuda.set_device(args.device.index or 0)
    found: list[Result] = []
    rates: Rates | None = None
    notes: list[str] = []
    differing: list[str] = []
    interrupted = False
    try:
        rates = _rates(wanted, args)
        available = AvailableArms(wanted, args.device, compiling=not args.quick)
        notes, differing = available.notes, available.differing
        most = workloads.largest(args.device)
        for part, workload in track(wanted, "measuring"):
            least = max(floor.floors(workload, rates).values(), default=None)
            if reason := workloads.too_large(part, workload, least, args.quick, most):
                notes.append(f"left out of {part}: {reason}")
            elif result := measured(part, workload, available, args):
                found.append(result)
        rates = rates.raised(_rates(wanted, args))
    except (KeyboardInterrupt, Stopped):
        interrupted = True
        notes.append(f"interrupted after {len(found)} of {len(wanted)} cells")
    if rates:
        found = [replace(each, floors=floor.floors(each.workload, rates)) for each in found]
    where = machine.description(args.device)
    return record.record(found, where, rates, notes, differing), interrupted


def measured(
    part: str, workload: Workload, available: AvailableArms, args: argparse.Namespace
) -> Result | None:
    """Times first, then the memory: measuring that makes a step slower. The floors come later.

    None, with a note, where memory does not suffice for the data, for autograd's arm, or for all.
    """
    if args.device.type == "cuda":
        gc.collect()  # the graphs of the workload before: their modules refer to themselves
        torch.cuda.empty_cache()
    try:
        with workloads.product_precision(workload.dtype):
            arms = available.arms(part, problem(workload, args.seed, args.device))
            if AUTOGRAD not in arms:
                return None
            steps = {name: arm.step for name, arm in arms.items()}
            clock = timing.clock_of(args.device)
            with busy.beside(workload.beside):
                times = timing.time_in_turns(steps, _budget(part, args), clock)
            peaks = {name: arm.peak() for name, arm in arms.items()}
    except torch.OutOfMemoryError as error:
        available.leave_out(part, workload, error)
        return None
    return Result(part, workload, measured_arms(times, peaks))


def _rates(wanted: list[tuple[str, Workload]], args: argparse.Namespace) -> Rates:
    """Measured at the start, to judge what takes too long, and at the end."""
    budget = PRODUCT_QUICK if args.quick else PRODUCT
    return floor.measured_rates((workload.dtype for _, workload in wanted), args.device, budget)


def _budget(part: str, args: argparse.Namespace) -> Budget:
    table, sweep = (QUICK, SWEEP_QUICK) if args.quick else (FULL, SWEEP)
    budget = table.get(part, sweep)
    return budget._replace(most=args.rounds, least=args.rounds) if args.rounds else budget
