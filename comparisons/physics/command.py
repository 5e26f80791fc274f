"""Networks that solve equations: derivatives by nested autograd beside manualbp.derivatives.

Poisson's, the heat, Burgers', Helmholtz' and an eikonal equation, each with its solution, and
DeepXDE's own example where DeepXDE is installed. Both arms have the same weights, points and Adam.
The exit code says whether they trained to the same error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from comparisons import machine, output, pixels
from comparisons.output import Table
from comparisons.physics import deepxde_poisson, loop, pictures, tables
from comparisons.physics.deepxde_poisson import DeepXDEPoisson
from comparisons.physics.loop import Trained
from comparisons.physics.pde import PDE
from comparisons.physics.problems import PROBLEMS
from comparisons.physics.ways import AUTOGRAD, MANUAL
from comparisons.stopping import Stopped
from manualbp.parity.cli import options
from manualbp.parity.cli.progress import TrainingProgress
from manualbp.parity.reports.charts import PARITY, VERDICT
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.terminal import print_table

QUICK = 8  # --quick takes so many times fewer steps
MARKDOWN = "physics.md"
Solved = PDE | DeepXDEPoisson


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is solved, how long it is trained, and where it goes."""
    add = parser.add_argument
    known = [*PROBLEMS, deepxde_poisson.NAME]
    add("--problem", type=options.one_of(known, "a problem"), action="append", metavar="NAME",
        help=f"only this one, once or more: {', '.join(known)} (default: all; deepxde where it is "
        "installed)")  # fmt: skip
    add("--steps", type=options.positive_int, help="of every problem (default: 3000)")
    add("--quick", action="store_true", help=f"{QUICK} times fewer steps, so larger errors")
    add("--seed", type=options.seed, default=0, help="of weights and points (default: 0)")
    options.add_run_arguments(parser, "physics")
    add("--output", type=options.folder("--output"), metavar="FOLDER",
        help="a new folder for tables and pictures (default: the run's)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, print, write; 0 where both arms reached the same error, 1 if not, 130 after Ctrl-C."""
    name = args.run_name or options.stamped("physics")
    output.check_new(args.log_dir, name, args.output)
    problems, notes = chosen(args)
    results: list[Trained] = []
    interrupted = False
    with output.new_run(args.log_dir, name, [AUTOGRAD, MANUAL, PARITY]) as log:
        try:
            train(problems, args, log, results)
        except (KeyboardInterrupt, Stopped):
            interrupted = True
            notes.append(f"interrupted after {len(results)} of {len(problems)} problems")
        found = [tables.equations(results), tables.errors(results, f"Physics: {log.path}"),
                 tables.times(results)] if results else []  # fmt: skip
        where = machine.description(torch.device("cpu"))
        words = [*notes, *tables.verdict(results)]
        write(args.output, log, results, page(args, found, words, where))
    for table in found:
        print_table(*table)
    print(machine.line(where), *words, f"Written: {args.output or log.path}", sep="\n")
    print(options.tensorboard_hint(log.path))
    return 130 if interrupted else int(any(result.fault for result in results))


def chosen(args: argparse.Namespace) -> tuple[list[Solved], list[str]]:
    """The problems that were asked for, and a note where one cannot be.

    Raises:
        UsageError: none is left.
    """
    names = list(dict.fromkeys(args.problem or [*PROBLEMS, deepxde_poisson.NAME]))
    missing = deepxde_poisson.NAME in names and not deepxde_poisson.is_installed()
    if missing:
        names.remove(deepxde_poisson.NAME)
    if not names:
        raise options.UsageError(deepxde_poisson.MISSING)
    found = [PROBLEMS[name] if name in PROBLEMS else DeepXDEPoisson() for name in names]
    return found, [deepxde_poisson.MISSING] if missing else []


def train(
    problems: list[Solved], args: argparse.Namespace, log: RunLog, results: list[Trained]
) -> None:
    """One after the other; ``results`` holds those that are done, also when it is interrupted."""
    steps = {p.name: args.steps or p.steps // (QUICK if args.quick else 1) for p in problems}
    with TrainingProgress(sum(loop.calls(p, steps[p.name]) for p in problems)) as bar:
        for problem in problems:
            results.append(loop.train(problem, steps[problem.name], args.seed, log, bar))


def write(folder: Path | None, log: RunLog, results: list[Trained], markdown: str) -> None:
    """The page and the pictures, into the folder (the run's own unless given) and TensorBoard."""
    drawn = {r.problem.name: pixels.of(pictures.picture(r)) for r in results}
    target = folder or log.path
    with output.writing(target, "--output"):
        target.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            (target / f"{name}.png").write_bytes(pixels.png(picture))
        (target / MARKDOWN).write_text(markdown)
    for name, picture in drawn.items():
        log.image(PARITY, f"solutions/{name}", picture)
    log.text(PARITY, VERDICT, markdown)


def page(
    args: argparse.Namespace, found: list[Table], words: list[str], where: dict[str, str | int]
) -> str:
    """The verdict, the tables, the machine and the command that runs it again, in Markdown."""
    again = [f"--problem {name}" for name in args.problem or ()]
    again += [f"--steps {args.steps}"] * bool(args.steps) + ["--quick"] * args.quick
    return "\n\n".join([
        *(f"**{line}**" for line in words),
        *(part for table in found for part in (table.title, table.markdown())),
        output.markdown_values("machine", where),
        f"Run it again: `python -m comparisons physics {' '.join(again)} --seed {args.seed}`",
    ]) + "\n"  # fmt: skip
