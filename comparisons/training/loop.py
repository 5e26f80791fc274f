"""The two arms, the hand-written MLP and its twin under autograd: their training, and in words."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

import manualbp
from comparisons.counterparts import LOSSES, autograd_twin
from comparisons.output import Table, markdown_values
from comparisons.training import data
from comparisons.training.data import Dataset
from comparisons.training.processes import Group
from comparisons.training.shares import Shares
from manualbp.parity.cli.progress import TrainingProgress
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.words import scientific
from manualbp.parity.step_record import SideBySide
from manualbp.parity.trajectories.side_by_side import Arm, evaluate, train_side_by_side

AUTOGRAD, MANUAL = "autograd", "manual"
# Name -> (how it is made from parameters and lr, default lr).
OPTIMIZERS: dict[str, tuple[Callable[[Any, float], Optimizer], float]] = {
    "sgd": (lambda parameters, lr: SGD(parameters, lr), 0.1),
    "momentum": (lambda parameters, lr: SGD(parameters, lr, momentum=0.9), 0.02),
    "adam": (lambda parameters, lr: Adam(parameters, lr), 1e-3),
    "descent": (lambda parameters, lr: manualbp.GradientDescent(parameters, lr), 0.1),
}


def build_arms(args: argparse.Namespace, classification: bool) -> tuple[Arm, Arm]:
    """The hand-written arm and autograd's, from one seed: equal weights, equal settings."""
    torch.manual_seed(args.seed)
    mlp = manualbp.MLP(args.widths, args.activation, dtype=args.dtype).to(args.device)
    twin = autograd_twin(mlp)
    theirs, ours = LOSSES["cross_entropy" if classification else "mse"]
    metrics = {"accuracy": accuracy} if classification else {}
    make, _ = OPTIMIZERS[args.optimizer]
    manual = Arm(MANUAL, mlp, ours(), make(mlp.parameters(), args.lr), metrics)
    return manual, Arm(AUTOGRAD, twin, theirs(), make(twin.parameters(), args.lr), metrics)


def accuracy(output: Tensor, y: Tensor) -> float:
    """Share of samples whose largest output is the target's class, 0...1."""
    return float((output.argmax(-1) == y).double().mean())


@dataclass
class Progress:
    """What a run has shown so far; ``validation`` holds each arm's last metrics."""

    report: SideBySide = field(default_factory=SideBySide)
    validation: dict[str, dict[str, float]] = field(
        default_factory=lambda: {AUTOGRAD: {}, MANUAL: {}}
    )
    interrupted: bool = False


def train(
    args: argparse.Namespace,
    dataset: Dataset,
    arms: tuple[Arm, Arm],
    log: RunLog | None,
    progress: Progress,
) -> None:
    """All epochs; ``progress`` is up to date whenever it is interrupted.

    The process without a log does no validation: the one with the log does it.
    """
    group: Group = args.group
    per_epoch = -(-len(dataset.x) // args.batch_size)

    def validate(step: int) -> None:
        if log is None:
            return
        for arm in arms:
            metrics = evaluate(arm, dataset.validation_x, dataset.validation_y)
            progress.validation[arm.name] = metrics
            log.validation(arm.name, metrics, step)
            log.histograms(arm.name, arm.module, step)

    validate(0)
    batches = data.batches(dataset, args.batch_size, args.epochs, args.seed)
    shares = Shares(batches, group.rank, group.size)
    manual, autograd = (group.data_parallel(arm, shares) for arm in arms)
    with TrainingProgress(per_epoch * args.epochs, shown=log is not None) as bar:
        for own in train_side_by_side(manual, autograd, shares):
            step = group.merge(own)
            progress.report.add(step)
            if log:
                log.step(step, MANUAL, AUTOGRAD)
            bar.step(step.candidate.metrics["loss"])
            if step.number % per_epoch == 0:
                validate(step.number)


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


def settings(args: argparse.Namespace) -> dict[str, str | float]:
    """By the names of their options, all that repeats a run."""
    group: Group = args.group
    device = args.device if group.size == 1 else args.device.type  # several: each has its own
    return {
        "dataset": args.dataset, "widths": ",".join(map(str, args.widths)),
        "activation": args.activation, "optimizer": args.optimizer, "lr": args.lr,
        "epochs": args.epochs, "batch-size": args.batch_size,
        "dtype": str(args.dtype).removeprefix("torch."), "device": str(device),
        "seed": args.seed, "threads": torch.get_num_threads(),
    }  # fmt: skip


def results(progress: Progress) -> dict[str, float | None]:
    """The cells of a run in the table of hyperparameters."""
    report = progress.report
    found: dict[str, float | None] = {"bit_identical": report.bit_identical, "steps": report.steps}
    for arm, metrics in progress.validation.items():
        found |= {f"validation_{name}_{arm}": value for name, value in metrics.items()}
    return {f"results/{name}": value for name, value in found.items()}


def page(args: argparse.Namespace, words: str, table: Table, where: dict[str, str | int]) -> str:
    """The verdict, the table, settings, machine and the command that runs it again, in Markdown."""
    group: Group = args.group
    chosen = settings(args)
    again = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    parts = [
        f"**{words}**",
        table._replace(columns=["result", AUTOGRAD, MANUAL]).markdown(),
        "Settings:",
        markdown_values("setting", {**chosen, "processes": group.size}),
        markdown_values("machine", where),
        f"Run it again: `{group.command} -m comparisons training {shlex.join(again)}`",
    ]
    return "\n\n".join(parts)
