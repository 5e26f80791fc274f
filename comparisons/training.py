"""Two trainings on real data, the hand-written MLP and nn.Sequential, held together step by step.

Same weights, same batches, same optimizer; only who computes the gradients differs. Every step is
judged, logged to TensorBoard, and summed up in a table. Under torchrun both arms train
data-parallel (distributed.py), on the same batches as in one process.
"""

from __future__ import annotations

import argparse
import copy
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import manualbp
from comparisons import cli, data, machine
from comparisons.data import Dataset
from comparisons.distributed import Group, Shares
from manualbp.parity import Arm, SideBySide, evaluate, train_side_by_side
from manualbp.parity.cli import options
from manualbp.parity.cli.progress import TrainingProgress
from manualbp.parity.reports.charts import PARITY, VERDICT
from manualbp.parity.reports.markdown import markdown_table
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.reports.words import scientific

AUTOGRAD, MANUAL = "autograd", "manual"
# Name -> (how it is made from parameters and lr, default lr).
OPTIMIZERS: dict[str, tuple[Callable[[Any, float], Optimizer], float]] = {
    "sgd": (lambda parameters, lr: SGD(parameters, lr), 0.1),
    "momentum": (lambda parameters, lr: SGD(parameters, lr, momentum=0.9), 0.02),
    "adam": (lambda parameters, lr: Adam(parameters, lr), 1e-3),
    "descent": (lambda parameters, lr: manualbp.GradientDescent(parameters, lr), 0.1),
}
HIDDEN = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of a run; a run is repeated by giving the same ones."""
    add = parser.add_argument
    add(
        "--dataset",
        type=cli.dataset,
        default="digits",
        help="digits (classes), diabetes (regression) or FILE.npz with arrays x and y "
        "(default: digits)",
    )
    add("--widths", type=cli.widths, help=f"layer widths (default: inputs,{HIDDEN},outputs)")
    add("--activation", type=cli.activation, default="relu", help="hidden layers (default: relu)")
    add(
        "--optimizer",
        type=options.one_of(OPTIMIZERS, "an optimizer"),
        default="sgd",
        help=f"{', '.join(OPTIMIZERS)}: torch's SGD, with momentum 0.9, Adam, and our "
        "GradientDescent (default: sgd)",
    )
    rates = ", ".join(f"{name} {lr:g}" for name, (_, lr) in OPTIMIZERS.items())
    add("--lr", type=options.positive_float, help=f"learning rate (default: {rates})")
    add(
        "--epochs", type=options.positive_int, default=25, help="passes over the data (default: 25)"
    )
    add("--batch-size", type=options.positive_int, default=32, help="rows per step (default: 32)")
    add(
        "--dtype",
        type=options.dtype,
        default=torch.float32,
        help=f"{', '.join(options.DTYPES)} (default: float32)",
    )
    add("--device", type=options.device, default=torch.device("cpu"),
        help="cpu, cuda or cuda:N (default: cpu); torchrun: cuda, one each")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="of weights, split and batches (default: 0)")
    add("--threads", type=options.positive_int, help="CPU threads (default: PyTorch's own choice)")
    options.add_run_arguments(parser, "dataset-optimizer[-GPU]")


def run(args: argparse.Namespace) -> int:
    """Train both arms, print the table; 0 bit-identical, 1 not, 130 after Ctrl-C."""
    group: Group = args.group
    dataset, arms = cli.together(group, lambda: prepare(args))
    opened = cli.together(group, lambda: open_log(args), group.share)
    report = SideBySide()
    metrics: dict[str, dict[str, float]] = {arm.name: {} for arm in arms}
    interrupted = False
    with opened as log:
        try:
            train(args, dataset, arms, log, report, metrics)
        except KeyboardInterrupt:
            interrupted = True
        except RuntimeError:
            interrupted = group.ended()
            if not interrupted:
                raise
        if log:
            verdict = judge(report, interrupted, group.size)
            rows = summary(report, metrics)
            where = machine.description(args.device)
            log.text(PARITY, VERDICT, page(args, verdict, rows, where))
    if log:
        print_table(f"Training: {log.path}", COLUMNS, rows)
        print(machine.line(where))
        print(verdict)
        print(options.tensorboard_hint(log.path))
    return 130 if interrupted else 0 if report.bit_identical else 1


def prepare(args: argparse.Namespace) -> tuple[Dataset, tuple[Arm, Arm]]:
    """The data and both arms, on this process's device; nothing is written yet."""
    group: Group = args.group
    try:
        args.device = group.device(args.device)
        dataset = data.load(args.dataset, args.seed).to(args.device, args.dtype)
    except ValueError as error:
        raise options.UsageError(str(error)) from None
    complete(args, dataset)
    if args.batch_size < group.size:
        raise options.UsageError(
            f"expected --batch-size of at least {group.size}, a row for each process, got "
            f"{args.batch_size}; use a larger one or start fewer processes"
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    return dataset, build_arms(args, dataset)


def open_log(args: argparse.Namespace) -> AbstractContextManager[RunLog | None]:
    """The run's event files; of several processes only the first has them."""
    if not args.group.first:
        return nullcontext()
    return cli.new_run(args.log_dir, args.run_name, [AUTOGRAD, MANUAL, PARITY])


def complete(args: argparse.Namespace, dataset: Dataset) -> None:
    """Fill in the defaults that depend on the data, and check the widths against it."""
    ends = dataset.x.shape[1], dataset.outputs
    args.widths = args.widths or (ends[0], HIDDEN, ends[1])
    if (args.widths[0], args.widths[-1]) != ends:
        raise options.UsageError(
            f"expected --widths from {ends[0]} inputs to {ends[1]} outputs for {dataset.name}, got "
            f"{','.join(map(str, args.widths))}; try --widths {ends[0]},{HIDDEN},{ends[1]}"
        )
    args.lr = args.lr or OPTIMIZERS[args.optimizer][1]
    name = f"{dataset.name}-{args.optimizer}"
    args.run_name = args.run_name or machine.stamped(name, machine.name(args.device))


def build_arms(args: argparse.Namespace, dataset: Dataset) -> tuple[Arm, Arm]:
    """The hand-written arm and autograd's, from one seed: equal weights, equal settings."""
    torch.manual_seed(args.seed)
    mlp = manualbp.MLP(args.widths, args.activation, dtype=args.dtype).to(args.device)
    twin = nn.Sequential(*copy.deepcopy(list(mlp)))
    losses = (
        (manualbp.CrossEntropyLoss(), nn.CrossEntropyLoss())
        if dataset.classification
        else (manualbp.MSELoss(), nn.MSELoss())
    )
    metrics = {"accuracy": accuracy} if dataset.classification else {}
    make, _ = OPTIMIZERS[args.optimizer]
    manual = Arm(MANUAL, mlp, losses[0], make(mlp.parameters(), args.lr), metrics)
    return manual, Arm(AUTOGRAD, twin, losses[1], make(twin.parameters(), args.lr), metrics)


def accuracy(output: Tensor, y: Tensor) -> float:
    """Share of samples whose largest output is the target's class, 0...1."""
    return float((output.argmax(-1) == y).double().mean())


def train(
    args: argparse.Namespace,
    dataset: Dataset,
    arms: tuple[Arm, Arm],
    log: RunLog | None,
    report: SideBySide,
    metrics: dict[str, dict[str, float]],
) -> None:
    """All epochs; ``report`` and ``metrics`` are up to date whenever it is interrupted.

    Without a log there is no validation: the process that has it sees to that.
    """
    group: Group = args.group
    per_epoch = -(-len(dataset.x) // args.batch_size)

    def validate(step: int) -> None:
        if log is None:
            return
        for arm in arms:
            metrics[arm.name] = evaluate(arm, dataset.validation_x, dataset.validation_y)
            log.validation(arm.name, metrics[arm.name], step)
            log.histograms(arm.name, arm.module, step)

    validate(0)
    batches = data.batches(dataset, args.batch_size, args.epochs, args.seed)
    shares = Shares(batches, group.rank, group.size)
    manual, autograd = (group.together(arm, shares) for arm in arms)
    with TrainingProgress(per_epoch * args.epochs, shown=log is not None) as progress:
        for own in train_side_by_side(manual, autograd, shares):
            step = group.merge(own)
            report.add(step)
            if log:
                log.step(step, MANUAL, AUTOGRAD)
            progress.step(step.candidate.metrics["loss"])
            if step.number % per_epoch == 0:
                validate(step.number)


COLUMNS = ["", AUTOGRAD, MANUAL]


def summary(report: SideBySide, metrics: dict[str, dict[str, float]]) -> list[list[str]]:
    """The rows of the final table: last losses, accuracy, time per step."""
    rows = []
    if report.last:
        for name in report.last.reference.metrics:
            pair = report.last.reference.metrics[name], report.last.candidate.metrics[name]
            rows.append([f"train {name}, last batch", *(f"{value:.6g}" for value in pair)])
    for name in metrics[AUTOGRAD]:
        pair = metrics[AUTOGRAD][name], metrics[MANUAL][name]
        rows.append([f"validation {name}", *(f"{value:.6g}" for value in pair)])
    times = report.milliseconds("reference"), report.milliseconds("candidate")
    rows.append(["ms per step, median", *(f"{value:.3f}" for value in times)])
    return rows


def judge(report: SideBySide, interrupted: bool, processes: int = 1) -> str:
    """The verdict in one or two lines of words."""
    where = f" in each of {processes} processes" if processes > 1 else ""
    stopped = f"interrupted after {report.steps} steps; " if interrupted else ""
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


def page(
    args: argparse.Namespace, verdict: str, rows: list[list[str]], where: dict[str, str | int]
) -> str:
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
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    known = {**settings, "processes": group.size}
    listed, there = ([[n, str(v)] for n, v in each.items()] for each in (known, where))
    return "\n\n".join(
        [
            f"**{verdict}**",
            markdown_table(["result", *COLUMNS[1:]], rows),
            "Settings:",
            markdown_table(["setting", "value"], listed),
            markdown_table(["machine", "value"], there),
            f"Run it again: `{group.command} -m comparisons training {shlex.join(words)}`",
        ]
    )
