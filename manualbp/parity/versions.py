"""What is installed: the versions that a result depends on, and how to add what is missing."""

from __future__ import annotations

import platform
from importlib import metadata

import numpy as np
import torch

# What an error says where a package of the extra "parity" is missing.
INSTALL = 'in the clone: pip install -e ".[parity]"'


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
