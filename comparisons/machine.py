"""Where the figures come from: processor or GPU, caches, threads, versions and the date."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import manualbp
from manualbp import gemm
from manualbp.parity.cli import options

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
NUMBERS = ("family", "cpu family"), ("model", "model")


def description(device: torch.device) -> dict[str, str | int]:
    """For whoever reads the figures later."""
    found: dict[str, str | int] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores(),
        "threads": torch.get_num_threads(),
        "caches": caches(),
        "fast products": "; ".join(f"{kind}: {name}" for kind, name in gemm.policy().items()),
        "device": name(device),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "manualbp": manualbp.__version__,
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
    }
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
    for package in ("torch", "triton", "jax", "scikit-learn", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def name(device: torch.device) -> str:
    """A GPU's own; cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def stamped(command: str, device: str) -> str:
    """A run name that is free: what ran, on which GPU if on one, and the time to the second."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return options.stamped(command if device == "cpu" else f"{command}-{words}")


def place(known: Mapping[str, Any]) -> str:
    """The GPU of a description, or the processor where it is of none."""
    return str(known["processor"] if known["device"] == "cpu" else known["device"])


def line(known: Mapping[str, str | int]) -> str:
    """The description in one line."""
    packages = [
        f"{name} {known[name]}" for name in ("torch", "jax", "scikit-learn") if name in known
    ]
    threads = f"{known['threads']} thread{'' if known['threads'] == 1 else 's'}"
    return ", ".join(
        [place(known), f"{threads} on {known['cores']} cores", *packages,
         f"Python {known['python']}", str(known["date"])]
    )  # fmt: skip


def cores() -> int:
    """All that the system counts."""
    return os.cpu_count() or 1


def caches() -> str:
    """Of the first core, as in ``L1 32K, L2 1024K``; empty where the system does not say."""
    found = []
    for index in sorted(CACHES.glob("index*")):
        try:
            kind, level, size = (
                (index / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found)


def processor() -> str:
    """Its name, as the system knows it, and its family and model, which say what is inside."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = {key.strip(): value.strip() for key, _, value in (li.partition(":") for li in lines)}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    numbers = [f"{key} {known[name]}" for key, name in NUMBERS if name in known]
    return known["model name"] + (f" ({', '.join(numbers)})" if numbers else "")
