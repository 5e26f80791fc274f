"""The dtypes of the workloads: PyTorch's by their names, and tf32.

With tf32 a GPU may round the factors of a float32 product to 10 bits behind the point. It is a flag
of the process, so every arm of a workload has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from manualbp.parity.cli import options

TF32 = "tf32"
DTYPES = {**options.DTYPES, TF32: torch.float32}


@contextmanager
def product_precision(name: str) -> Iterator[None]:
    """Inside, products have the precision of this dtype: full float32, or TF32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = name == TF32
    try:
        yield
    finally:
        matmul.allow_tf32 = before
