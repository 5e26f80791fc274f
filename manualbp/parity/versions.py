"""What a result depends on besides its inputs: the versions of everything that computed it."""

from __future__ import annotations

import platform
from importlib import metadata

import numpy as np
import torch


def versions() -> dict[str, str]:
    """``python``, ``torch``, ``numpy``, ``manualbp``, and the processor."""
    try:
        own = metadata.version("manualbp")
    except metadata.PackageNotFoundError:  # run from its sources
        own = "not installed"
    return {
        "python": platform.python_version(), "torch": str(torch.__version__),
        "numpy": np.__version__, "manualbp": own, "machine": platform.machine(),
    }  # fmt: skip
