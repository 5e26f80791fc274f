"""The machine that the figures come from: processor, GPU, caches, compiler, versions, the date."""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import manualbp
from manualbp.fast import native
from manualbp.parity.cli import options

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def description(device: torch.device) -> dict[str, str | int]:
    """By name, everything that a reader of the figures may ask."""
    counted = os.cpu_count() or 1
    found: dict[str, str | int] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else counted,
        "threads": torch.get_num_threads(),
        "caches": caches(),
        "native step": "no" if native.library() is None else "yes",
        "device": name(device),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "manualbp": manualbp.__version__,
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
    }
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
    for package in ("torch", "triton", "jax", "jet-for-pytorch", "scikit-learn", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def memory() -> float:
    """Bytes that the machine has; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def name(device: torch.device) -> str:
    """The GPU's own name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def stamped(command: str, device: str) -> str:
    """A new run name: what ran, on which GPU (not for cpu), and the time to the second."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return options.stamped(command if device == "cpu" else f"{command}-{words}")


def place(known: Mapping[str, Any]) -> str:
    """The GPU of a description; the processor where there was none."""
    return str(known["processor"] if known["device"] == "cpu" else known["device"])


def line(known: Mapping[str, str | int]) -> str:
    """The description in one line."""
    packages = [
        f"{name} {known[name]}" for name in ("torch", "jax", "scikit-learn") if name in known
    ]
    threads = f"{known['threads']} thread{'' if known['threads'] == 1 else 's'}"
    return ", ".join(
        [place(known), f"{threads} on {known['cores']} cores", *packages,
         *(["no native step"] if known.get("native step") == "no" else []),
         f"Python {known['python']}", str(known["date"])]
    )  # fmt: skip


def caches() -> str:
    """The first core's caches, as in ``L1 32K, L2 1024K``; empty where the system does not say."""
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
    """The processor's name as the system knows it, with its family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = {key.strip(): value.strip() for key, _, value in (li.partition(":") for li in lines)}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    names = {"family": "cpu family", "model": "model"}  # they say what is inside
    numbers = [f"{word} {known[name]}" for word, name in names.items() if name in known]
    return known["model name"] + (f" ({', '.join(numbers)})" if numbers else "")


def no_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot be used on this device; None where it can."""
    # Compile in this process: workers would take processor time while arms are timed.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch's own imports warn of
            torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:  # what a missing compiler raises has no common class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        needs = "Triton" if device.type == "cuda" else "a C++ compiler, such as g++"
        return f"no torch.compile: it needs {needs} ({reason})"
    return None
