"""The two arms, the hand-written MLP and its twin under autograd, and their training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

import manualbp
from comparisons.counterparts import LOSSES, autograd_twin
from comparisons.training import data
from comparisons.training.data import Dataset
from comparisons.training.processes import Group
from comparisons.training.shares import Shares
from manualbp.parity.cli.progress import TrainingProgress
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.training_record import SideBySide
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
    loss = LOSSES["cross_entropy" if classification else "mse"]
    metrics = {"accuracy": accuracy} if classification else {}
    make, _ = OPTIMIZERS[args.optimizer]
    manual = Arm(MANUAL, mlp, loss.manual(), make(mlp.parameters(), args.lr), metrics)
    return manual, Arm(AUTOGRAD, twin, loss.autograd(), make(twin.parameters(), args.lr), metrics)


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
