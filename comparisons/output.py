"""What the commands print and leave behind: tables, files, event files, errors in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from manualbp.parity import files
from manualbp.parity.cli import options
from manualbp.parity.cli.options import UsageError, one_line
from manualbp.parity.reports.page import markdown_table
from manualbp.parity.reports.tensorboard import RunLog

REQUIREMENTS = "requirements/comparisons.txt"
EXTRA = ("rich", "sklearn", "tensorboard", "matplotlib")  # packages that it adds


class Table(NamedTuple):
    """A title, the names of the columns, and the cells. A line break in a name is for terminals."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table without its title; each column name in one line."""
        names = [re.sub("(?<=[-_])\n", "", name).replace("\n", " ") for name in self.columns]
        return markdown_table(names, self.rows)


def markdown_values(what: str, values: Mapping[str, object]) -> str:
    """Names and their values as a Markdown table with the columns ``what`` and "value"."""
    return markdown_table([what, "value"], [[name, str(value)] for name, value in values.items()])


def json_text(record: Mapping[str, Any]) -> str:
    """A record as JSON; NaN is an error, since other readers do not know the word."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def error_line(error: Exception) -> str:
    """The error in one line; for a package that is missing, how to install it."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRA:
        return f"the comparisons need {package}; install it with: pip install -r {REQUIREMENTS}"
    return one_line(error)


def out_of_memory(error: BaseException) -> str:
    """What to say of an error that is one of memory; "" where it is another."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if not known and "allocate memory" not in str(error):
        return ""
    return f"expected what fits into memory, got: {one_line(error)[:200]}; take smaller numbers"


@contextmanager
def writing(folder: Path, option: str) -> Iterator[None]:
    """Around what writes into a folder: where that fails, ``option`` was bad usage."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"expected a folder that can be written, got {folder}: {error.strerror}; "
            f"choose another {option}"
        ) from None


def check_new(log_dir: Path, name: str, folder: Path | None) -> None:
    """Nothing is measured for a run or an ``--output`` folder that is taken already."""
    options.free_run(log_dir, name)
    if folder is not None and folder.exists():
        raise UsageError(
            f"expected a new folder, got {folder}, which is there; choose another --output"
        )


def new_run(log_dir: Path, name: str, folders: list[str]) -> RunLog:
    """The event files of a new run; a name that is taken or a read-only folder is bad usage."""
    options.free_run(log_dir, name)
    with writing(log_dir, "--log-dir"):
        return RunLog(log_dir, name, folders)


def write_files(folder: Path, texts: Mapping[str, str], option: str) -> None:
    """Write texts by file name, each whole or not at all, over earlier ones, and print the paths.

    Raises:
        UsageError: the folder cannot be made or written; ``option`` named it.
    """
    with writing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            files.write_text(folder / name, text)
    print("Written: " + ", ".join(str(folder / name) for name in texts))
