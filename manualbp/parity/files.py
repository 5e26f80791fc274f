"""Files that are written whole or not at all: under another name first, then moved."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]


def write_text(path: PathLike, text: str) -> None:
    """``write`` in UTF-8; half a surrogate pair, which UTF-8 cannot hold, is escaped.

    Raises:
        OSError: it cannot be written there; what stood there is unchanged.
    """
    write(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write(path: PathLike, save: Callable[[BinaryIO], object]) -> None:
    """Let ``save`` fill a file; where it raises, what stood there is unchanged.

    A link stays a link to what it names; a pipe or a terminal (``/dev/stdout``) is written to.

    Raises:
        OSError: it cannot be written there; the message names the file.
    """
    with _named(path):
        given = Path(path)
        if given.is_fifo() or given.is_char_device():
            with open(given, "wb") as file:
                save(file)
            return
        if given.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        beside = target.parent / f".{target.name}.{os.getpid()}"
        try:
            with open(beside, "wb") as file:
                save(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _named(path: PathLike) -> Iterator[None]:
    """Errors of the system say which file, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        said = type(error)(
            f"cannot write {os.path.abspath(path)}: {reason}; nothing was changed; give a file in "
            "a folder that exists, may be written and has room"
        )
        said.strerror = reason  # the system's words alone, for who says the rest
        raise said from error
