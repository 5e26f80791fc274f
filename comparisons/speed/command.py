"""How long a step takes and how much memory, every arm side by side in one process.

workloads.py has what is measured, arms/ who takes the step: nn.Sequential eager and compiled, ours
in three ways, both as CUDA graphs on a GPU, JAX and scikit-learn. A figure is the median over the
rounds; a ratio is the median of each round's own ratio, with half the distance of their quartiles
as its spread. Not yet measured on a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from comparisons import machine
from comparisons.speed import record, tables, workloads
from comparisons.speed.measure import measure
from comparisons.speed.results import geometric_means
from comparisons.speed.workloads import COSTS, Workload
from manualbp.parity.cli import options
from manualbp.parity.reports.terminal import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, how long, on what, and where it goes."""
    add = parser.add_argument
    parts = list(workloads.PARTS | workloads.ON_GPU)
    add("--only", type=options.one_of(parts, "a part"), action="append", metavar="PART",
        help=f"only this part, once or more: {', '.join(parts)} (default: all that the device has; "
        "gpu, long batches and tiny networks, and more dtypes with --device cuda)")  # fmt: skip
    add("--step", type=options.one_of(COSTS, "a step"), help=f"only this one: {', '.join(COSTS)}")
    add("--quick", action="store_true",
        help="a minute or two instead of ten, rougher figures: no torch.compile, every second cell "
        "of a sweep, and of those the short ones")  # fmt: skip
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
    earlier = record.read(args.read) if args.read else None
    device = earlier["machine"]["device"] if earlier else machine.name(args.device)
    name = args.run_name or machine.stamped("speed", device)
    record.check_new(args.log_dir, name, args.output)
    written, interrupted = (earlier, False) if earlier else measure(chosen(args), args)
    results = record.from_record(written)
    for table in tables.of(results):
        print_table(*table)
    said = *geometric_means(results), *written["notes"], machine.line(written["machine"])
    print(*said, sep="\n")
    if results:
        log = record.write(written, args.log_dir, name, args.output)
        print(f"Written: {args.output or log.path}")
        print(options.tensorboard_hint(log.path))
    return 130 if interrupted else 0


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
