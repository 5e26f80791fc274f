"""Other processes that keep the machine busy while a step is timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It says that it runs, and ends by itself once the process that started it is gone.
SPIN = """
import os, sys
parent = os.getppid()
print("spinning", flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def beside(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Inside, ``count`` processes run a loop of Python without a pause; none is left after it."""
    found: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-S", "-c", SPIN]
            found.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in found:
            assert process.stdout is not None
            process.stdout.readline()
        yield found
    finally:
        for process in found:
            process.kill()
        for process in found:
            process.communicate()
