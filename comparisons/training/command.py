"""Two trainings on real data, the hand-written MLP and nn.Sequential, held together step by step.

Same weights, same batches, same optimizer; only who computes the gradients differs. Every step is
judged, logged to TensorBoard, and summed up in a table. Under torchrun both arms train
data-parallel (processes.py, shares.py), on the same batches as in one process.
"""

from __future__ import annotations

import argparse
import os
import re
from contextlib import AbstractContextManager, nullcontext

import torch

from comparisons import machine, output
from comparisons.stopping import Stopped
from comparisons.training import data, loop
from comparisons.training.data import Dataset
from comparisons.training.loop import AUTOGRAD, MANUAL, OPTIMIZERS, Progress
from comparisons.training.processes import Group
from manualbp.maths.activations import ACTIVATIONS
from manualbp.parity.cli import options
from manualbp.parity.reports.charts import PARITY, RESULTS, VERDICT, step_layout
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.trajectories.side_by_side import Arm

HIDDEN = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of a run; a run is repeated by giving the same ones."""
    add = parser.add_argument
    add("--dataset", type=dataset_name, default="digits",
        help="digits (classes), diabetes (regression) or FILE.npz with arrays x (N, features) and "
        "y, classes 0, 1, ... (N,) or real numbers (N, outputs) (default: digits)")  # fmt: skip
    add("--widths", type=widths, help=f"layer widths (default: inputs,{HIDDEN},outputs)")
    add("--activation", type=options.one_of(ACTIVATIONS, "an activation"), default="relu",
        help="hidden layers (default: relu)")  # fmt: skip
    add("--optimizer", type=options.one_of(OPTIMIZERS, "an optimizer"), default="sgd",
        help=f"{', '.join(OPTIMIZERS)}: torch's SGD, with momentum 0.9, Adam, and our "
        "GradientDescent (default: sgd)")  # fmt: skip
    rates = ", ".join(f"{name} {lr:g}" for name, (_, lr) in OPTIMIZERS.items())
    add("--lr", type=options.positive_float, help=f"learning rate (default: {rates})")
    add("--epochs", type=options.positive_int, default=25,
        help="passes over the data (default: 25)")  # fmt: skip
    add("--batch-size", type=options.positive_int, default=32, help="rows per step (default: 32)")
    add("--dtype", type=options.dtype, default=torch.float32,
        help=f"{', '.join(options.DTYPES)} (default: float32)")  # fmt: skip
    add("--device", type=options.device, default=torch.device("cpu"),
        help="cpu, cuda or cuda:N (default: cpu); torchrun: cuda, one each")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="of weights, split and batches (default: 0)")
    add("--threads", type=options.threads, help="CPU threads (default: PyTorch's own choice)")
    options.add_run_arguments(parser, "dataset-optimizer[-GPU]")


def dataset_name(text: str) -> str:
    """An argparse type: the name of a data set, or a .npz file that is there."""
    if text.endswith(".npz"):
        if not os.path.isfile(text):  # False, too, where no path can be like that
            raise argparse.ArgumentTypeError(
                f"expected a file of arrays x and y, found no {options.short(text)}"
            )
        if not text.isprintable():  # it could not be logged
            raise argparse.ArgumentTypeError(
                f"expected a printable name, got {options.short(text)}; rename it"
            )
    elif text not in data.NAMES:
        known = [*data.NAMES, "FILE.npz"]
        raise argparse.ArgumentTypeError(options.nearest(text, known, "a data set"))
    return text


def widths(text: str) -> tuple[int, ...]:
    """An argparse type: ``64,128,10``, the layer widths from input to output."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(re.fullmatch(r"0*[1-9][0-9]{,9}", part) for part in parts):
        raise argparse.ArgumentTypeError(
            "expected at least two whole numbers above 0 of at most ten digits, as in 64,128,10, "
            f"got {options.short(text)}"
        )
    return tuple(int(part) for part in parts)


def run(args: argparse.Namespace) -> int:
    """Train both arms, print the table; 0 bit-identical, 1 not, 130 after Ctrl-C."""
    group: Group = args.group
    dataset, arms = group.in_all(lambda: prepare(args))
    opened = group.in_all(lambda: open_log(args), group.share)
    progress = Progress()
    with opened as log:
        if log:
            log.layout(PARITY, step_layout(["loss", *arms[0].metrics], arms[0].module))
        try:
            loop.train(args, dataset, arms, log, progress)
        except (KeyboardInterrupt, Stopped):
            progress.interrupted = True
        except RuntimeError:
            progress.interrupted = group.ended()
            if not progress.interrupted:
                raise
        if log:
            words = loop.verdict(progress, group.size)
            table = loop.summary(progress, f"Training: {log.path}")
            where = machine.description(args.device)
            log.text(PARITY, VERDICT, loop.page(args, words, table, where))
            log.hparams(RESULTS, loop.settings(args), loop.results(progress), progress.report.steps)
    if log:
        print_table(*table)
        print(machine.line(where))
        print(words)
        print(options.tensorboard_hint(log.path))
    return 130 if progress.interrupted else 0 if progress.report.bit_identical else 1


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
    return dataset, loop.build_arms(args, dataset.classification)


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
    most = torch.finfo(args.dtype).max / 100  # Adam's first step is 10 times as large
    if args.lr > most:
        raise options.UsageError(
            f"expected --lr that {args.dtype} can compute with, at most {most:.1g}, "
            f"got {args.lr:g}; lower it"
        )
    check_memory(args, dataset)
    short = re.sub(r"\W+", "-", dataset.name).strip("-")[:40]  # what a folder may be called
    name = f"{short}-{args.optimizer}"
    args.run_name = args.run_name or machine.stamped(name, machine.name(args.device))


def check_memory(args: argparse.Namespace, dataset: Dataset) -> None:
    """Refuse widths that cannot fit: of two arms W, dC/dW and the optimizer's two, z and a.

    On a CPU alone: a GPU says by itself that it has no room, and goes on.
    """
    pairs = zip(args.widths, args.widths[1:], strict=False)
    parameters = sum((i + 1) * o for i, o in pairs)
    rows = max(min(args.batch_size, len(dataset.x)), len(dataset.validation_x))
    size = torch.finfo(args.dtype).bits // 8
    needed = 2 * size * (4 * parameters + 2 * rows * sum(args.widths[1:]))
    if args.device.type == "cpu" and needed > (there := machine.memory()):
        raise options.UsageError(
            f"expected --widths that fit into {there / 1e9:.0f} GB of memory, got what needs "
            f"{needed / 1e9:.0f} GB; take smaller ones"
        )


def open_log(args: argparse.Namespace) -> AbstractContextManager[RunLog | None]:
    """The run's event files; of several processes only the first has them."""
    if not args.group.first:
        return nullcontext()
    return output.new_run(args.log_dir, args.run_name, [AUTOGRAD, MANUAL, PARITY, RESULTS])
