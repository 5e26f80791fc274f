"""The command line: finds the command, runs it, and turns errors into one line.

Exit codes: 0 all agree, 1 something differs, 2 bad usage (one ``error:`` line, no traceback), 130
interrupted. Under torchrun every process ends with the same code, and only the first one prints.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from types import ModuleType

from comparisons.output import error_line
from comparisons.training.processes import Group, joined
from manualbp.parity.cli.options import Parser, UsageError

COMMANDS = {
    "gradients": "outputs, losses and every gradient: NumPy, the Function, autograd",
    "training": "two training runs on real data, step by step, in TensorBoard",
    "power": "planted faults that must be caught, correct pairs that must not",
    "speed": "time and memory of a step: eager, torch.compile, by hand, JAX, scikit-learn",
    "physics": "networks that solve equations: derivatives by the input, nested and by hand",
    "walkthrough": "the article's networks, each number by its formula; a page to walk through",
}
PARALLEL = ("training",)  # commands that torchrun may start more than one process of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with joined() as group, nullcontext() if group.first else redirect_stdout(io.StringIO()):
        try:
            command, args = group.in_all(lambda: _parsed(arguments, group))
            return int(command.run(args))
        except (UsageError, ImportError) as error:
            code, line = 2, f"error: {error_line(error)}"
        except KeyboardInterrupt:
            code, line = 130, "interrupted"
        if group.first:
            print(line, file=sys.stderr)
        return code


def _parsed(arguments: list[str], group: Group) -> tuple[ModuleType, argparse.Namespace]:
    """The command's module and its settings; ``group`` is one of them."""
    parser = Parser(
        prog="python -m comparisons",
        description="Compare hand-written backpropagation with PyTorch's autograd.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen, module = arguments[0] if arguments else "", None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:  # only the chosen command's module is imported
            module = importlib.import_module(f"comparisons.{name}.command")
            module.add_arguments(command)
    args = parser.parse_args(arguments, argparse.Namespace(group=group))
    importlib.import_module("rich")  # every command prints with it: say so before it has run
    if module is None or (group.size > 1 and args.command not in PARALLEL):
        raise UsageError(
            f"expected one process for {args.command}, got {group.size}; run it without torchrun"
        )
    return module, args
