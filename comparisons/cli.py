"""What the commands share: the dispatcher and the checks of their options.

Exit codes: 0 all agree, 1 something differs, 2 bad usage (one ``error:`` line, no traceback), 130
interrupted. Under torchrun every process ends with the same one, and the first alone prints.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stdout
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch

from comparisons import distributed
from comparisons.distributed import Group

if TYPE_CHECKING:
    from manualbp.parity.tensorboard import RunLog

COMMANDS = {
    "gradients": "outputs, losses and every gradient: NumPy, the Function, autograd",
    "training": "two training runs on real data, step by step, in TensorBoard",
    "speed": "time and memory of a step: eager, torch.compile, by hand, JAX, scikit-learn",
    "walkthrough": "the article's networks, every number by its formula",
}
PARALLEL = ("training",)  # what torchrun may start more than one process of
EXTRA = ("rich", "sklearn", "tensorboard", "matplotlib")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}

T = TypeVar("T")


class UsageError(ValueError):
    """A request that cannot be met; its one-line message says expected, got, remedy."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Leave it to ``main`` to print: under torchrun one process does, for all."""
        raise UsageError(f"{message} (see {self.prog} --help)")


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
    if module is None or (group.size > 1 and args.command not in PARALLEL):
        raise UsageError(
            f"expected one process for {args.command}, got {group.size}; run it without torchrun"
        )
    return module, args


def _one_line(error: Exception) -> str:
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRA:
        return f'the comparisons need {package}; install it with: pip install -e ".[dev]"'
    return " ".join(str(error).split())


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The message for an unknown name: lists the known ones and suggests the nearest."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"expected {what} out of {', '.join(names)}, got {name!r}{hint}"


def one_of(known: Iterable[str], what: str) -> Callable[[str], str]:
    """An argparse type that takes one name out of ``known``."""
    names = list(known)

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(nearest(text, names, what))
        return text

    return parse


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


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0, such as a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1, such as epochs or a batch size."""
    return _whole_number(text, 1)


def seed(text: str) -> int:
    """An argparse type: a whole number from 0 to 2**32 - 1, what torch and NumPy both take."""
    value = _whole_number(text, 0)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a seed below 2**32, got {text!r}")
    return value


def widths(text: str) -> tuple[int, ...]:
    """An argparse type: ``64,128,10``, the layer widths from input to output."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(re.fullmatch(r"[0-9]+", part) and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected at least two whole numbers above 0, as in 64,128,10, got {text!r}"
        )
    return tuple(int(part) for part in parts)


def dtype(text: str) -> torch.dtype:
    """An argparse type: a floating-point dtype by its torch name."""
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(nearest(text, DTYPES, "a dtype"))
    return DTYPES[text]


def device(text: str) -> torch.device:
    """An argparse type: ``cpu``, ``cuda`` or ``cuda:N``, checked to be there."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r}")
    found = torch.device(text)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise argparse.ArgumentTypeError(
            f"expected a CUDA device that is there, got {text!r} with {count} present; "
            "use --device cpu"
        )
    return found


def folder(option: str) -> Callable[[str], Path]:
    """An argparse type: a folder that exists or can be made; it is not made here."""

    def parse(text: str) -> Path:
        path = Path(text)
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise argparse.ArgumentTypeError(
                f"expected a folder that can be written, got {text!r} "
                f"({existing} is {'not writable' if existing.is_dir() else 'no folder'}); "
                f"choose another {option}"
            )
        return path

    return parse


log_dir = folder("--log-dir")


def run_name(text: str) -> str:
    """An argparse type: a name for one folder under the log directory."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", text):
        raise argparse.ArgumentTypeError(
            f"expected letters, digits and . _ + = - (no folder separators), got {text!r}"
        )
    return text


def add_run_arguments(parser: argparse.ArgumentParser, default_name: str) -> None:
    """Where the event files of a run go."""
    add = parser.add_argument
    add("--log-dir", type=log_dir, default=log_dir("runs"),
        help="parent folder of the event files (default: runs)")  # fmt: skip
    add("--run-name", type=run_name, help=f"folder in it (default: {default_name}-time)")


def stamped(name: str) -> str:
    """A run name that is free: the name and the time to the second."""
    return f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def free_run(log_dir: Path, name: str) -> None:
    """A name that is taken is bad usage, before a long run; nothing is made yet."""
    from manualbp.parity.tensorboard import new_path

    try:
        new_path(log_dir, name)
    except FileExistsError as error:
        raise UsageError(f"{error} (--run-name)") from None


def new_run(log_dir: Path, name: str, folders: list[str]) -> RunLog:
    """The event files of a new run; a name that is taken or a read-only folder is bad usage."""
    from manualbp.parity.tensorboard import RunLog

    try:
        return RunLog(log_dir, name, folders)
    except FileExistsError as error:
        raise UsageError(f"{error} (--run-name)") from None
    except OSError as error:
        raise UsageError(
            f"expected a folder that can be written, got {log_dir}: {error.strerror}; "
            "choose another --log-dir"
        ) from None


def tensorboard_hint(log: RunLog) -> str:
    """How to look at a run."""
    beside = Path(sys.executable).with_name("tensorboard")
    command = "tensorboard"
    if sys.prefix != sys.base_prefix and beside.exists():  # a virtual environment's own
        command = os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
    name, parent = log.path.name, log.path.parent
    return f"See it: {command} --logdir {parent}, then open http://localhost:6006 (run {name})"


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {least}, got {text!r}"
        )
    return value
