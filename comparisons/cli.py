"""What the commands share: the dispatcher and the checks of options that only they have.

Exit codes: 0 all agree, 1 something differs, 2 bad usage (one ``error:`` line, no traceback), 130
interrupted. Under torchrun every process ends with the same one, and the first alone prints.
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from comparisons import distributed
from comparisons.distributed import Group
from manualbp.parity import files
from manualbp.parity.cli.options import Parser, UsageError, nearest, one_line

if TYPE_CHECKING:
    from manualbp.parity.reports.tensorboard import RunLog

COMMANDS = {
    "gradients": "outputs, losses and every gradient: NumPy, the Function, autograd",
    "training": "two training runs on real data, step by step, in TensorBoard",
    "power": "planted faults that must be caught, correct pairs that must not",
    "speed": "time and memory of a step: eager, torch.compile, by hand, JAX, scikit-learn",
    "walkthrough": "the article's networks, every number by its formula",
}
PARALLEL = ("training",)  # what torchrun may start more than one process of
EXTRA = ("rich", "sklearn", "tensorboard", "matplotlib")

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with (
        distributed.joined() as group,
        nullcontext() if group.first else redirect_stdout(io.StringIO()),
    ):
        try:
            module, args = together(group, lambda: _parsed(arguments, group))
            return int(module.run(args))
        except (UsageError, ImportError) as error:
            code, line = 2, f"error: {_one_line(error)}"
        except KeyboardInterrupt:
            code, line = 130, "interrupted"
        if group.first:
            print(line, file=sys.stderr)
        return code


def together(
    group: Group, work: Callable[[], T], exchange: Callable[[str], str] | None = None
) -> T:
    """What ``work`` returns, done by every process; refused in one, it is refused in all.

    ``exchange`` is ``group.agree`` unless given: what the processes do with their errors.
    """
    refused = None
    try:
        done = work()
    except (UsageError, ImportError) as error:
        refused = error
    agreed = (exchange or group.agree)(_one_line(refused) if refused else "")
    if refused or agreed:
        raise refused or UsageError(agreed)
    return done


def _parsed(arguments: list[str], group: Group) -> tuple[ModuleType, argparse.Namespace]:
    """The command's module and its settings, ``group`` among them."""
    parser = Parser(
        prog="python -m comparisons",
        description="Compare hand-written backpropagation with PyTorch's autograd.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen, module = arguments[0] if arguments else "", None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:  # only the chosen command's module is imported
            module = importlib.import_module(f"comparisons.{name}")
            module.add_arguments(command)
    args = parser.parse_args(arguments, argparse.Namespace(group=group))
    importlib.import_module("rich")  # what every command prints with: missed before it has run
    if module is None or (group.size > 1 and args.command not in PARALLEL):
        raise UsageError(
            f"expected one process for {args.command}, got {group.size}; run it without torchrun"
        )
    return module, args


def _one_line(error: Exception) -> str:
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRA:
        return f'the comparisons need {package}; install it with: pip install -e ".[dev]"'
    return one_line(error)


def activation(text: str) -> str:
    """An argparse type: the name of a known activation."""
    from manualbp.activations import ACTIVATIONS

    if text not in ACTIVATIONS:
        raise argparse.ArgumentTypeError(nearest(text, ACTIVATIONS, "an activation"))
    return text


def dataset(text: str) -> str:
    """An argparse type: the name of a data set, or a .npz file that is there."""
    from comparisons.data import NAMES

    if text.endswith(".npz"):
        if not Path(text).is_file():
            raise argparse.ArgumentTypeError(f"expected a file of arrays x and y, found no {text}")
    elif text not in NAMES:
        raise argparse.ArgumentTypeError(nearest(text, [*NAMES, "FILE.npz"], "a data set"))
    return text


def widths(text: str) -> tuple[int, ...]:
    """An argparse type: ``64,128,10``, the layer widths from input to output."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(re.fullmatch(r"[0-9]+", part) and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected at least two whole numbers above 0, as in 64,128,10, got {text!r}"
        )
    return tuple(int(part) for part in parts)


def new_run(log_dir: Path, name: str, folders: list[str]) -> RunLog:
    """The event files of a new run; a name that is taken or a read-only folder is bad usage."""
    from manualbp.parity.reports.tensorboard import RunLog

    try:
        return RunLog(log_dir, name, folders)
    except FileExistsError as error:
        raise UsageError(f"{error} (--run-name)") from None
    except OSError as error:
        raise UsageError(
            f"expected a folder that can be written, got {log_dir}: {error.strerror}; "
            "choose another --log-dir"
        ) from None


def write_texts(folder: Path, texts: Mapping[str, str], option: str) -> list[Path]:
    """Files by their names, each whole or not at all; earlier ones are replaced.

    Raises:
        UsageError: the folder cannot be made or written; ``option`` names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            files.write_text(folder / name, text)
    except OSError as error:
        raise UsageError(
            f"expected a folder that can be written, got {folder}: {error.strerror}; "
            f"choose another {option}"
        ) from None
    return [folder / name for name in texts]
