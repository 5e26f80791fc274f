"""Gradient parity: NumPy node by node, the hand-written Function, autograd; case by case.

Every case builds one MLP and its nn.Sequential twin with the same weights and asks
``manualbp.parity`` for a verdict on the output, the loss and every gradient.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product

import torch

from comparisons import machine
from comparisons.counterparts import LOSSES
from comparisons.gradients import tables
from comparisons.gradients.cases import CASES, check
from comparisons.gradients.tables import Verdicts
from comparisons.output import json_text, write_files
from manualbp.maths.activations import ACTIVATIONS
from manualbp.parity.cli import options
from manualbp.parity.cli.progress import track
from manualbp.parity.reports.terminal import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The filters of the table."""
    add = parser.add_argument
    add("--activation", type=options.one_of(ACTIVATIONS, "an activation"),
        help="only this activation")  # fmt: skip
    add("--loss", type=options.one_of(LOSSES, "a loss"),
        help=f"only this loss: {', '.join(LOSSES)}")  # fmt: skip
    add("--dtype", type=options.dtype, help=f"only this dtype: {', '.join(options.DTYPES)}")
    add("--device", type=options.device,
        help="only this device (default: cpu, and cuda if present)")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="of weights, data and cotangents (default: 0)")
    add("--output", type=options.folder("--output"), metavar="FOLDER",
        help="a folder for gradients.md and gradients.json, which name the device and the date "
        "(default: none)")  # fmt: skip
    add("--verbose", action="store_true", help="every tensor instead of the worst of each case")


def run(args: argparse.Namespace) -> int:
    """Print the table and the verdict, write them; 0 when all agree, 1 otherwise."""
    devices = [str(args.device)] if args.device else ["cpu"]
    if not args.device and torch.cuda.is_available():
        devices.append("cuda")
    cases = [
        replace(case, device=device) for device, case in product(devices, CASES)
        if args.activation in (None, case.activation, case.output_activation)
        and args.loss in (None, case.loss)
        and args.dtype in (None, case.dtype)
    ]  # fmt: skip
    if not cases:
        raise options.UsageError(
            "no case has this activation, loss and dtype; leave one filter out"
        )
    start = time.perf_counter()
    results = [(case, check(case, args.seed)) for case in track(cases, "comparing")]
    where = machine.description(torch.device(devices[-1]))
    found = Verdicts(results, args.seed, time.perf_counter() - start, where)
    print_table(*tables.table(found, args.verbose))
    *said, verdict = tables.lines(found)
    for line in (tables.LEGEND, *said, machine.line(where), verdict):
        print(line)
    if args.output:
        record, page = json_text(tables.record(found)), tables.page(found)
        write_files(args.output, {"gradients.json": record, "gradients.md": page}, "--output")
    return 0 if found.agree else 1
