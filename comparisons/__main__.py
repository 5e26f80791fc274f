"""``python -m comparisons gradients | training | walkthrough``; each command is one module.

``torchrun --nproc-per-node N -m comparisons training`` trains in N processes.
"""

from __future__ import annotations

from comparisons.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
