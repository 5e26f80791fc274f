"""A training in words: the table of its last numbers, the verdict, and the page of the run."""

from __future__ import annotations

import argparse
import shlex

import torch

from comparisons.output import Table, markdown_values
from comparisons.training.loop import AUTOGRAD, MANUAL, Progress
from comparisons.training.processes import Group
from manualbp.parity.reports.words import scientific


def summary(progress: Progress, title: str) -> Table:
    """Last losses, accuracy, time per step."""
    report, rows = progress.report, []

    def add(name: str, autograd: float, manual: float, digits: str = ".6g") -> None:
        rows.append([name, f"{autograd:{digits}}", f"{manual:{digits}}"])

    if report.last:
        for name, value in report.last.reference.metrics.items():
            add(f"train {name}, last batch", value, report.last.candidate.metrics[name])
    for name, value in progress.validation[AUTOGRAD].items():
        add(f"validation {name}", value, progress.validation[MANUAL][name])
    times = report.milliseconds("reference"), report.milliseconds("candidate")
    add("ms per step, median", *times, digits=".3f")
    return Table(title, ["", AUTOGRAD, MANUAL], rows)


def verdict(progress: Progress, processes: int = 1) -> str:
    """The verdict in one or two lines of words."""
    report = progress.report
    where = f" in each of {processes} processes" if processes > 1 else ""
    stopped = f"interrupted after {report.steps} steps; " if progress.interrupted else ""
    if report.bit_identical:
        words = (
            f"bit-identical for {report.steps} steps{where}: every loss, gradient and weight "
            "(largest divergence 0)"
        )
    elif report.first_difference and report.worst:
        step, names = report.first_difference
        words = (
            f"DIFFER from step {step} on, first in {', '.join(names[:4])}; largest divergence "
            f"{scientific(report.worst.divergence)} in {report.worst.tensor} at step "
            f"{report.worst.step}"
        )
    else:
        words = "no step was completed"
    loss = report.last.reference.metrics["loss"] if report.last else 0.0
    if not abs(loss) < float("inf"):
        words += f"; the loss became {loss}: training diverged, lower --lr"
    return stopped + words


def page(args: argparse.Namespace, words: str, table: Table, where: dict[str, str | int]) -> str:
    """The verdict, the table, settings, machine and the command that runs it again, in Markdown."""
    group: Group = args.group
    device = args.device if group.size == 1 else args.device.type  # several: each has its own
    settings = {
        "dataset": args.dataset, "widths": ",".join(map(str, args.widths)),
        "activation": args.activation, "optimizer": args.optimizer, "lr": repr(args.lr),
        "epochs": args.epochs, "batch-size": args.batch_size,
        "dtype": str(args.dtype).removeprefix("torch."), "device": device,
        "seed": args.seed, "threads": torch.get_num_threads(),
    }  # fmt: skip
    again = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    parts = [
        f"**{words}**",
        table._replace(columns=["result", AUTOGRAD, MANUAL]).markdown(),
        "Settings:",
        markdown_values("setting", {**settings, "processes": group.size}),
        markdown_values("machine", where),
        f"Run it again: `{group.command} -m comparisons training {shlex.join(again)}`",
    ]
    return "\n\n".join(parts)
