"""Gradient parity: NumPy node by node, the hand-written Function, autograd; case by case.

Every case builds one MLP and its nn.Sequential twin with the same weights and asks
``manualbp.parity`` for a verdict on the output, the loss and every gradient.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch

from comparisons import machine
from comparisons.counterparts import LOSSES
from comparisons.gradients.cases import CASES, Case, check
from comparisons.output import Table, json_text, markdown_values, write_files
from manualbp.maths.activations import ACTIVATIONS
from manualbp.parity import GradientReport, TensorReport
from manualbp.parity.cli import options
from manualbp.parity.cli.progress import track
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.reports.words import scientific

COLUMNS = ["case", "tensor", "max\nabs", "max\nrel", "ULP", "manual\n- fp64", "autograd\n- fp64",
           "NumPy\n- fp64", "bit-\nequal", "verdict"]  # fmt: skip
NUMBERS = ("max_abs", "max_rel", "ulp", "candidate_error", "reference_error", "oracle_difference")
LEGEND = (
    "max abs, max rel, ULP: manualbp against autograd. manual/autograd - fp64: rms distance to "
    "the float64 run of\nthe same network. NumPy - fp64: the oracle's distance, relative to "
    "the size of the sums (at most 1e-12)."
)


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
    print_table(*table(found, args.verbose))
    *said, verdict = lines(found)
    for line in (LEGEND, *said, machine.line(where), verdict):
        print(line)
    if args.output:
        texts = {"gradients.json": json_text(record(found)), "gradients.md": page(found)}
        write_files(args.output, texts, "--output")
    return 0 if found.agree else 1


class Verdicts(NamedTuple):
    """The report on each case, how long all took, and on which machine."""

    results: Sequence[tuple[Case, GradientReport]]
    seed: int
    seconds: float
    machine: Mapping[str, str | int]

    @property
    def agree(self) -> bool:
        """Whether all cases do."""
        return all(report.agrees for _, report in self.results)


def table(found: Verdicts, verbose: bool) -> Table:
    """The worst tensor of each case, or every tensor."""
    what = "every tensor" if verbose else "the worst tensor of each case"
    rows = []
    for case, report in found.results:
        for tensor in report.tensors if verbose else (report.worst,):
            bits = f"{_same(report)}/{len(report.tensors)}"
            if verbose:
                bits = "yes" if tensor.bit_identical else "no"
            rows.append([case.id, *_cells(tensor), bits, "agree" if tensor.agrees else "DIFFER"])
    return Table(f"Gradients: manualbp against autograd, {what}", COLUMNS, rows)


def lines(found: Verdicts) -> list[str]:
    """What differs and why, what was planted, and the verdict last."""
    said = []
    for case, report in found.results:
        said += [f"DIFFER {case.id} {tensor.name}: {tensor.reason}" for tensor in report.differing]
        missing = report.power.missing if report.power else ()
        said += [f"NO POWER {case.id}: {reason}" for reason in missing]
    reports = [report for _, report in found.results]
    planted = [
        (case, fault) for case, report in found.results if report.power
        for fault in report.power.planted
    ]  # fmt: skip
    unseen = Counter(
        str(case.dtype).removeprefix("torch.") for case, fault in planted if not fault.caught
    )
    tensors = sum(len(report.tensors) for report in reports)
    bad = sum(not report.agrees for report in reports)
    return [
        *said,
        f"Planted into the gradients: {len(planted)} standard faults, "
        f"{len(planted) - unseen.total()} caught{_rest(unseen)}.",
        f"{len(reports)} cases, {tensors} tensors, {sum(map(_same, reports))} bit-identical: "
        f"{'all agree' if not bad else f'{bad} cases DIFFER'} ({found.seconds:.1f} s)",
    ]


def _rest(unseen: Counter[str]) -> str:
    """Why faults that were not caught are no failure, where no line of its own says so."""
    if not unseen:
        return ""
    by_dtype = ", ".join(f"{count} in {dtype}" for dtype, count in unseen.most_common())
    return (
        f"; the other {unseen.total()} ({by_dtype}) change a gradient by no more than rounding may "
        "there, where NO POWER does not say otherwise"
    )


def record(found: Verdicts) -> dict[str, Any]:
    """Every case with the numbers of its worst tensor, for JSON; NaN and infinity are strings."""
    return {
        "machine": dict(found.machine),
        "seed": found.seed,
        "seconds": found.seconds,
        "agree": found.agree,
        "cases": [_case_record(case, report) for case, report in found.results],
    }


def _case_record(case: Case, report: GradientReport) -> dict[str, Any]:
    planted = report.power.planted if report.power else ()
    return {
        "case": case.id,
        "device": case.device,
        "agrees": report.agrees,
        "tensors": len(report.tensors),
        "bit_identical": _same(report),
        "worst": {"tensor": report.worst.name}
        | {name: _number(getattr(report.worst, name)) for name in NUMBERS},
        "differing": {tensor.name: tensor.reason for tensor in report.differing},
        "planted": len(planted),
        "caught": sum(fault.caught for fault in planted),
    }


def page(found: Verdicts) -> str:
    """The table, the lines and the machine, in Markdown."""
    parts = [
        f"# Gradients on {machine.place(found.machine)}",
        "\n".join(f"- {line}" for line in reversed(lines(found))),
        table(found, verbose=False).markdown(),
        LEGEND.replace("\n", " "),
        markdown_values("machine", {"seed": found.seed, **found.machine}),
    ]
    return "\n\n".join(parts) + "\n"


def _same(report: GradientReport) -> int:
    """How many tensors are bit-identical."""
    return sum(tensor.bit_identical for tensor in report.tensors)


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def _cells(tensor: TensorReport) -> list[str]:
    numbers = [tensor.candidate_error, tensor.reference_error, tensor.oracle_difference]
    ulp = "-" if tensor.ulp is None else scientific(tensor.ulp) if tensor.ulp > 9999 else None
    return [
        tensor.name, scientific(tensor.max_abs), scientific(tensor.max_rel),
        ulp or str(tensor.ulp), *map(scientific, numbers),
    ]  # fmt: skip
