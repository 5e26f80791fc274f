"""Files that are written whole or not at all: under another name first, then moved."""

from __future__ import annotations

import os
from collections.abc import Callable
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
        OSError: it cannot be written there.
    """
    path = Path(path)
    if path.is_fifo() or path.is_char_device():
        with open(path, "wb") as file:
            save(file)
        return
    path = path.resolve()
    beside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        with open(beside, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
