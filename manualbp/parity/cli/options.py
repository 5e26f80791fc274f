"""What command lines have in common: the types of their options, and errors on one line."""

from __future__ import annotations

import argparse
import difflib
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import torch

from manualbp.parity.reports.tensorboard import new_path

T = TypeVar("T")

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
}


class UsageError(ValueError):
    """A request that cannot be met; its one-line message says expected, got, remedy."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option to a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Raise, and let ``main`` print: it knows where to and in how many processes."""
        mistyped = re.search(r"unrecognized arguments: (--\S+)", message)
        known = self._option_string_actions if mistyped else ()
        close = difflib.get_close_matches(mistyped[1] if mistyped else "", known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"{message}{hint} (see {self.prog} --help)")


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def short(text: str) -> str:
    """A text in quotes; what is too long for a line loses its middle."""
    return repr(text) if len(text) <= 80 else f"{text[:40]!r}... ({len(text)} letters)"


def no_path(text: str) -> str:
    """Why no system takes a path, "" where it does: it is too long, or has a NUL in it."""
    try:
        os.lstat(text)
    except ValueError:
        return "has a NUL in it"
    except OSError as error:
        return "is too long" if error.errno == errno.ENAMETOOLONG else ""
    return ""


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The message for an unknown name: lists the known ones and suggests the nearest."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"expected {what} out of {', '.join(names)}, got {short(name)}{hint}"


def one_of(known: Iterable[str], what: str) -> Callable[[str], str]:
    """An argparse type that takes one name out of ``known``."""
    names = list(known)

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(nearest(text, names, what))
        return text

    return parse


def list_of(item: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """An argparse type that takes several, each once, with commas between them: ``0,1,2``."""

    def parse(text: str) -> tuple[T, ...]:
        found = tuple(item(part.strip()) for part in text.split(","))
        if len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"expected each once, got {text!r}")
        return found

    return parse


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0, such as a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {short(text)}")
    return value


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1, such as epochs or a batch size."""
    return _whole_number(text, 1, 2**31 - 1)


def seed(text: str) -> int:
    """An argparse type: a whole number from 0 to 2**32 - 1, what torch and NumPy both take."""
    return _whole_number(text, 0, 2**32 - 1)


def threads(text: str) -> int:
    """An argparse type: CPU threads, no more than a machine with many processes can start."""
    return _whole_number(text, 1, max(256, os.cpu_count() or 1))


def dtype(text: str) -> torch.dtype:
    """An argparse type: a floating-point dtype by its torch name."""
    return DTYPES[one_of(DTYPES, "a dtype")(text)]


def device(text: str) -> torch.device:
    """An argparse type: ``cpu``, ``cuda`` or ``cuda:N``, checked to be there."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {short(text)}")
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
        if not text.strip():  # a variable of the shell that is not set
            raise argparse.ArgumentTypeError(
                f"expected a folder, got {text!r}; name one, or leave {option} out"
            )
        if not (why := no_path(text)):
            existing = next(p for p in (path, *path.absolute().parents) if p.exists())
            if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
                return path
            why = f"{existing} is {'not writable' if existing.is_dir() else 'no folder'}"
        raise argparse.ArgumentTypeError(
            f"expected a folder that can be written, got {short(text)} ({why}); "
            f"choose another {option}"
        )

    return parse


log_dir = folder("--log-dir")


def new_file(option: str) -> Callable[[str], Path]:
    """An argparse type: a file that can be written or replaced; it is not made here."""

    def parse(text: str) -> Path:
        path = Path(text)
        if why := no_path(text):
            pass
        elif not text.strip():
            why = "names nothing"
        elif (path.is_fifo() or path.is_char_device()) and os.access(path, os.W_OK):
            return path  # a pipe or /dev/stdout, in a folder where nothing can be made
        elif path.is_dir() or not path.name:
            why = "is a folder"
        elif not path.parent.is_dir():
            why = "stands in no folder that is there"
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            why = f"stands in {path.parent}, which is not writable"
        else:
            return path
        raise argparse.ArgumentTypeError(
            f"expected a file that can be written, got {short(text)}, which {why}; "
            f"choose another {option}"
        )

    return parse


def run_name(text: str) -> str:
    """An argparse type: a name for one folder under the log directory."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{,199}", text):
        raise argparse.ArgumentTypeError(
            "expected at most 200 letters, digits and . _ + = - (no folder separators), "
            f"got {short(text)}"
        )
    return text


def add_run_arguments(parser: argparse.ArgumentParser, default_name: str) -> None:
    """Where the event files of a run go."""
    add = parser.add_argument
    add("--log-dir", type=log_dir, default="runs",  # a text: looked at where it is needed
        help="parent folder of the event files (default: runs)")  # fmt: skip
    add("--run-name", type=run_name, help=f"folder in it (default: {default_name}-time)")


def stamped(name: str) -> str:
    """A run name that is free: the name and the time to the second."""
    return f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def free_run(log_dir: Path, name: str) -> None:
    """Refuse a run name that is taken, before a long run; nothing is made yet."""
    try:
        new_path(log_dir, name)
    except FileExistsError as error:
        raise UsageError(f"{error} (--run-name)") from None


def tensorboard_hint(run: Path) -> str:
    """How to look at a run."""
    beside = Path(sys.executable).with_name("tensorboard")
    command = "tensorboard"
    if sys.prefix != sys.base_prefix and beside.exists():  # a virtual environment's own
        command = os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
    return (
        f"See it: {command} --logdir {run.parent}, then open http://localhost:6006 (run {run.name})"
    )


def _whole_number(text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:  # no number, or one of more than 4,300 digits
        value = most + 1 if re.fullmatch(r"\+?[0-9]{4000,}", text) else least - 1
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise argparse.ArgumentTypeError(f"expected a whole number of {bound}, got {short(text)}")
    return value
