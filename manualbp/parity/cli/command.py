"""The command line: two arms by their names, one comparison, one report, one exit code."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from manualbp.parity.arms.calls import moved
from manualbp.parity.arms.parameters import load_parameters
from manualbp.parity.arms.subject import kept_running
from manualbp.parity.cli import options
from manualbp.parity.cli.arguments import LOSSES, OPTIMIZERS, SECONDS, STEPS, parse
from manualbp.parity.cli.options import UsageError
from manualbp.parity.cli.progress import TrainingProgress, checking
from manualbp.parity.cli.specs import explain, importable_here, is_refusal, load_arm, load_value
from manualbp.parity.gradients import compare_gradients
from manualbp.parity.record import GradientReport
from manualbp.parity.reports import tensorboard, write
from manualbp.parity.reports.terminal import print_report
from manualbp.parity.repro import read_repro, save_repro
from manualbp.parity.training import compare_training
from manualbp.parity.training_record import Report, TrainingReport, Trajectory


def main(argv: Sequence[str] | None = None) -> int:
    """Run one comparison, print and write its report, and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    stopped = [signal.SIGINT]
    with importable_here(), torch.random.fork_rng(devices=[]), _stopped_by_sigterm(stopped):
        try:
            args = parse(arguments)
            with kept_running():  # inputs and data may call sys.exit as well
                report = compare(args)
            show(report, args)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 128 + stopped[-1]
        except Exception as error:  # a refusal, or raised by what the user wrote
            words = options.one_line(error) if is_refusal(error) else explain(error)
            print(f"error: {words}", file=sys.stderr)
            return 2
    if isinstance(report, TrainingReport) and report.interrupted:
        there = args.checkpoint and args.checkpoint.exists()
        onwards = f"; the same command goes on from {args.checkpoint}" if there else ""
        print(f"interrupted{onwards}", file=sys.stderr)
        return 128 + stopped[-1]
    return 0 if report.agrees else 1


@contextmanager
def _stopped_by_sigterm(stopped: list[signal.Signals]) -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, with the report of what was done; ``stopped`` gets it."""

    def stop(*_: object) -> None:
        stopped.append(signal.SIGTERM)
        raise KeyboardInterrupt

    # Only the main thread has signals; and whoever called main may want this one for himself.
    ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def compare(args: argparse.Namespace) -> Report:
    """The comparison that was asked for.

    Raises:
        UsageError: a spec names nothing, or what it names cannot be loaded or made.
        ValueError: what was named cannot be compared.
        TypeError: it is nothing that can be compared.
    """
    if "file" in args:
        return replay(args.file)
    seed = (args.seeds or (0,))[0]
    torch.manual_seed(seed)  # what a module makes while it is imported
    candidate, reference = load_arm(args.candidate, seed), load_arm(args.reference, seed)
    if isinstance(candidate, nn.Module) and isinstance(reference, nn.Module):
        load_parameters(candidate, reference, args.parameters)
    if args.data is not None:
        return _training(args, candidate, reference, seed)
    return _gradients(args, candidate, reference, seed)


def replay(path: str | os.PathLike[str]) -> GradientReport:
    """Compare once more what a repro file holds; on the same machine with the same numbers.

    Raises:
        ValueError: the file is no repro file, or what it needs cannot be imported.
        OSError: the file is not there or cannot be read.
    """
    return compare_gradients(**read_repro(path, load_arm))


def show(report: Report, args: argparse.Namespace) -> None:
    """Write every file that was asked for, and print the report in any case.

    Raises:
        OSError: a file could not be written; the others are, and the report is printed.
    """
    runs, failures = [], []
    writers: list[tuple[Any, Callable[[], Any]]] = [
        (args.json, lambda: write.write_json(report, args.json)),
        (args.junit, lambda: write.write_junit(report, args.junit)),
        (args.log_dir, lambda: runs.append(
            tensorboard.log_report(report, args.log_dir, args.run_name))),
    ]  # fmt: skip
    for asked, written in writers:
        try:
            if asked:
                written()
        except OSError as error:
            failures.append(error)
    print_report(report, verbose=args.verbose)
    for run in runs:
        print(options.tensorboard_hint(run))
    if failures:
        raise failures[0]


def _gradients(args: argparse.Namespace, candidate: Any, reference: Any, seed: int) -> Report:
    """One forward and backward for each seed; the repro file is written before."""
    inputs = load_value(args.inputs, seed, by_seed=True)
    settings: dict[str, Any] = dict(
        loss=_loss(args.loss, seed), parameters=args.parameters, seeds=args.seeds,
        target=None if args.target is None else load_value(args.target, seed), also=args.also,
        exact=args.exact, power=not args.no_power, situations=not args.no_situations,
        dtype=args.dtype, device=args.device,
    )  # fmt: skip
    settings = {name: value for name, value in settings.items() if value is not None}
    if args.repro:
        specs = args.candidate, args.reference
        save_repro(args.repro, candidate, reference, inputs, settings, specs)
    count = len(settings.get("seeds", (0, 1, 2))) * (1 + len(settings.get("also", ())))
    with checking(count, sys.stderr.isatty()) as done:
        report = compare_gradients(candidate, reference, inputs, on_check=done, **settings)
    return dataclasses.replace(report, repro=str(args.repro)) if args.repro else report


def _training(args: argparse.Namespace, candidate: Any, reference: Any, seed: int) -> Report:
    """One training for each optimizer, dtype and seed, with a bar on a terminal."""
    for arm in (candidate, reference):
        if not isinstance(arm, nn.Module):
            raise UsageError(
                f"expected modules with --data, got {type(arm).__name__}; compare functions with "
                "--inputs"
            )
    data = load_value(args.data, seed, by_seed=True)
    if args.device is not None:
        candidate.to(args.device)
        reference.to(args.device)
        data = _moved(data, args.device)
    working = args.dtype or next((p.dtype for p in reference.parameters()), torch.float32)
    dtypes = tuple(dict.fromkeys((working, torch.float64)))
    optimizers, seeds = args.optimizers or OPTIMIZERS, args.seeds or (0,)
    steps = args.steps or STEPS
    total = steps * len(optimizers) * len(dtypes) * len(seeds)
    with TrainingProgress(total, sys.stderr.isatty()) as bar:

        def on_step(run: Trajectory) -> None:
            loss = run.curves.get("loss/candidate")
            bar.step(loss.last[1] if loss and loss.last else math.nan, run.name)

        return compare_training(
            candidate, reference, data, _loss(args.loss, seed), optimizers, steps, seeds,
            dtypes=dtypes, parameters=args.parameters, exact=args.exact,
            checkpoint=args.checkpoint, on_step=on_step,
            checkpoint_seconds=args.checkpoint_every or SECONDS,
        )  # fmt: skip


def _moved(data: Any, device: torch.device) -> Any:
    """The batches on another device; an iterator stays as it is, to be refused later."""
    if isinstance(data, Iterator):
        return data
    return lambda seed: (
        moved(batch, device=device) for batch in (data(seed) if callable(data) else data)
    )


def _loss(spec: str | None, seed: int) -> Any:
    """By its short name or its place."""
    if spec is None or spec in LOSSES:
        return LOSSES[spec]() if spec else None
    if ":" not in spec:
        raise UsageError(options.nearest(spec, [*LOSSES, "package.module:name"], "a loss"))
    return load_arm(spec, seed)
