"""The command line: finds the command, runs it, and turns errors into one line.

Exit codes: 0 all agree, 1 something differs, 2 bad usage or no room (one ``error:`` line, no
traceback), 130 after Ctrl-C, 143 after SIGTERM, 141 where the reader of standard output went away.
Under torchrun every process ends with the same code, and only the first one prints.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext, redirect_stdout
from types import ModuleType

from comparisons.output import error_line, out_of_memory
from comparisons.stopping import Stopped
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
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    quiet = redirect_stdout(io.StringIO())
    with joined() as group, nullcontext() if group.first else quiet:
        try:
            command, args = group.in_all(lambda: _parsed(arguments, group))
            code, line = int(command.run(args)), ""
            sys.stdout.flush()
        except (Stopped, KeyboardInterrupt):
            code, line = 130, "interrupted"
        except BrokenPipeError:
            code, line = 141, "standard output was closed before all was printed"
        except (UsageError, ImportError) as error:
            code, line = 2, f"error: {error_line(error)}"
        except OSError as error:
            what = error.filename or "the run or standard output"
            code, line = 2, f"error: cannot write {what}: {error.strerror}; is there room for it?"
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            code, line = 2, f"error: {out_of_memory(error)}"
        if line and group.first:
            _leave_stdout()
            print(line, file=sys.stderr)
        return code


def _leave_stdout() -> None:
    """What waits there and cannot be printed would be a second error when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(arguments: list[str], group: Group) -> tuple[ModuleType, argparse.Namespace]:
    """The command's module and its settings; ``group`` is one of them."""
    chosen = [name for name in arguments[:1] if name in COMMANDS]
    args = parser(chosen).parse_args(arguments, argparse.Namespace(group=group))
    importlib.import_module("rich")  # every command prints with it: say so before it has run
    if not chosen or (group.size > 1 and args.command not in PARALLEL):
        raise UsageError(
            f"expected one process for {args.command}, got {group.size}; run it without torchrun"
        )
    return _module(args.command), args


def parser(complete: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The arguments of every command; options of those in ``complete``, whose modules it imports.

    docs/api/commands.md is made of them.
    """
    whole = Parser(
        prog="python -m comparisons",
        description="Compare hand-written backpropagation with PyTorch's autograd.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in complete:
            _module(name).add_arguments(command)
    return whole


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"comparisons.{name}.command")
