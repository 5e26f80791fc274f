"""``python -m comparisons gradients | training | power | speed | physics | walkthrough``.

Each command is the ``command.py`` of the package of its name.
``torchrun --nproc-per-node N -m comparisons training`` trains in N processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# By default NumPy's threads spin for 0.1 s after each product and take processor time from PyTorch.
# They read this once, when NumPy is loaded; PyTorch loads it.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from comparisons.stopping import Stopped, by_signals


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; after a signal that signal's, also where a library has swallowed it."""
    with by_signals() as stopped:
        try:
            from comparisons import cli  # imports PyTorch, which takes seconds

            code = cli.main(argv)
        except Stopped:
            print("interrupted", file=sys.stderr)
        return stopped[-1].code if stopped else code


if __name__ == "__main__":
    raise SystemExit(main())
