"""The dtypes of the rows: PyTorch's by their names, and tf32.

tf32 is float32 whose products a GPU may take with factors of 10 bits behind the point. It is a flag
of the process, so every arm of a row has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from manualbp.parity.cli import options

TF32 = "tf32"
DTYPES = {**options.DTYPES, TF32: torch.float32}


@contextmanager
def products(name: str) -> Iterator[None]:
    """Products as this dtype wants them, until its end: float32's own digits, or TF32's."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = name == TF32
    try:
        yield
    finally:
        matmul.allow_tf32 = before
