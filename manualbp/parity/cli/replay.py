"""Run the comparison in a repro file again."""

from __future__ import annotations

import os

from manualbp.parity.cli.specs import load_arm
from manualbp.parity.gradients import compare_gradients
from manualbp.parity.record import GradientReport
from manualbp.parity.repro import read_repro


def replay(path: str | os.PathLike[str]) -> GradientReport:
    """Compare once more what a repro file holds; on the same machine with the same numbers.

    Raises:
        ValueError: the file is no repro file, or what it needs cannot be imported.
        OSError: the file is not there or cannot be read.
    """
    return compare_gradients(**read_repro(path, load_arm))
