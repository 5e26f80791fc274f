"""``python -m comparisons gradients | training | power | speed | physics | walkthrough``.

Each command is the ``command.py`` of the package of its name.
``torchrun --nproc-per-node N -m comparisons training`` trains in N processes.
"""

from __future__ import annotations

import os

# By default NumPy's threads spin for 0.1 s after each product and take processor time from PyTorch.
# They read this once, when NumPy is loaded; PyTorch loads it.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from comparisons.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
