"""``python -m comparisons gradients | training | walkthrough``; each command is one module.

``torchrun --nproc-per-node N -m comparisons training`` trains in N processes.
"""

from __future__ import annotations

import os

# NumPy's threads would keep the processor busy for 0.1 s after each product, beside PyTorch's. They
# are told when NumPy is loaded, which is with PyTorch.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from comparisons.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
