"""Every launch, compiled to machine code for GPUs that need not be there, and what that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from manualbp.maths.activations import ACTIVATIONS

pytestmark = pytest.mark.kernels

ROOT = Path(__file__).parents[4]
KERNELS = ("_forward", "_input_gradient", "_chain")
# Bytes of shared memory that one block may have, by compute capability (CUDA's programming guide).
SHARED = {80: 163 * 1024, 90: 227 * 1024}
REGISTERS = 255  # of a thread
# Bytes of stack for each thread, which is spilled registers. Compiled by Triton 3.8, a layer's
# kernels take at most 16, a net's at most 176.
SPILLED = {"_forward": 64, "_input_gradient": 64, "_chain": 320}
OF_CHOSEN = {80: ["relu"], 90: []}  # activations; none is all


def compiled(capability: int, names: Sequence[str], at: Path) -> list[dict[str, Any]]:
    """By a process of its own, anew."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(at / "cache"), "PYTHONPATH": str(ROOT)}
    script = ROOT / "tests/fast/gpu/kernels/compiled.py"
    done = subprocess.run([sys.executable, script, str(capability), *names], env=env, cwd=at,
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def too_much(launches: Sequence[dict[str, Any]], capability: int, least: int) -> list[str]:
    """What is missing, or takes more than there is or than it may."""
    found = [f"{kernel} {launches}" for kernel in KERNELS
             if sum(launch["kernel"] == kernel for launch in launches) < least]  # fmt: skip
    for launch in launches:
        kernel = launch["kernel"]
        fits = launch["shared"] <= SHARED[capability] and launch["stack"] <= SPILLED[kernel]
        if not (fits and 0 < launch["reg"] <= REGISTERS):
            found.append(f"{kernel} {launch}")
    return found


@pytest.mark.parametrize("capability", SHARED)
def test_every_launch_is_built(capability: int, tmp_path: Path) -> None:
    """For 9.0 with every activation; for 8.0, whose tensor cores are others, the largest."""
    names = OF_CHOSEN[capability]
    launches = compiled(capability, names, tmp_path)
    assert too_much(launches, capability, len(names or ACTIVATIONS) + 4) == []


def test_planted_excess_is_seen() -> None:
    right = [{"kernel": kernel, "shared": 65536, "reg": 255, "stack": 0} for kernel in KERNELS]
    assert too_much(right, 80, 1) == []
    assert len(too_much(right, 80, 2)) == 3 and len(too_much(right[:2], 80, 1)) == 1
    for fault in ({"shared": 200 * 1024}, {"reg": 256}, {"reg": 0}, {"stack": 400}):
        assert len(too_much([{**right[0], **fault}, *right[1:]], 80, 1)) == 1
    assert too_much([{**right[0], "shared": 200 * 1024}, *right[1:]], 90, 1) == []


def test_what_does_not_compile_is_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="KeyError: 'no such'"):
        compiled(90, ["no such"], tmp_path)
