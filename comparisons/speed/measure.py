"""Each workload's arms are made and timed in turns; then their memory is measured.

The arms take turns, round after round, so that what slows the machine down slows all of them.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from typing import Any

import torch

from comparisons import machine
from comparisons.speed import floor, timing, workloads
from comparisons.speed.arms.arm import AUTOGRAD, problem
from comparisons.speed.arms.available import AvailableArms
from comparisons.speed.floor import Rates
from comparisons.speed.record import record
from comparisons.speed.results import Result
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import Workload
from manualbp.parity.cli.progress import track

# Seconds per workload, and rounds at most and at least; compiling and warming up are not in them.
FULL = {"rows": Budget(15, 15, 5), "second-order": Budget(5, 15, 5)}
QUICK = {"rows": Budget(1, 5, 2), "second-order": Budget(0.5, 5, 2)}
SWEEP, SWEEP_QUICK = Budget(1.5, 11, 3), Budget(0.15, 5, 2)
PRODUCT, PRODUCT_QUICK = 0.3, 0.05  # seconds for every product whose rate is measured


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
    interrupted = False
    try:
        rates = _rates(wanted, args)
        available = AvailableArms(wanted, args.device, compiling=not args.quick)
        notes = available.notes
        most = workloads.largest(args.device)
        for part, workload in track(wanted, "measuring"):
            least = max(floor.floors(workload, rates).values(), default=None)
            if reason := workloads.too_large(part, workload, least, args.quick, most):
                notes.append(f"left out of {part}: {reason}")
            elif result := measured(part, workload, available, args):
                found.append(result)
        rates = rates.raised(_rates(wanted, args))
    except KeyboardInterrupt:
        interrupted = True
        notes.append(f"interrupted after {len(found)} of {len(wanted)} cells")
    if rates:
        found = [replace(each, floors=floor.floors(each.workload, rates)) for each in found]
    return record(found, machine.description(args.device), rates, notes), interrupted


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
            times = timing.time_in_turns(steps, _budget(part, args), clock)
            peaks = {name: arm.peak() for name, arm in arms.items()}
    except torch.OutOfMemoryError as error:
        available.leave_out(part, workload, error)
        return None
    known = {name: size for name, size in peaks.items() if size is not None}
    return Result(part, workload, times, known)


def _rates(wanted: list[tuple[str, Workload]], args: argparse.Namespace) -> Rates:
    """Measured at the start, to judge what takes too long, and at the end."""
    budget = PRODUCT_QUICK if args.quick else PRODUCT
    return floor.measured_rates((workload.dtype for _, workload in wanted), args.device, budget)


def _budget(part: str, args: argparse.Namespace) -> Budget:
    table, sweep = (QUICK, SWEEP_QUICK) if args.quick else (FULL, SWEEP)
    budget = table.get(part, sweep)
    return budget._replace(most=args.rounds, least=args.rounds) if args.rounds else budget
