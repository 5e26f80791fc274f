"""When the kernels' tests are collected, where they run, and how one sees that kernels ran."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

CUDA = torch.cuda.is_available()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Imports no Triton unless ``-m kernels`` asks for it: it may not be installed.

    Raises:
        pytest.UsageError: there is nothing to run kernels on.
    """
    if "kernels" not in config.option.markexpr.split() or "not kernels" in config.option.markexpr:
        return True
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted is CUDA:
        raise pytest.UsageError(
            "expected TRITON_INTERPRET=1 where there is no GPU, and only there; use "
            "`make test-kernels`, which sets it"
        )
    return None


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """NumPy, which interprets, warns of infinities that a GPU computes with in silence."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def device() -> str:
    """Where kernels run: compiled on a GPU, else interpreted on CPU tensors."""
    return "cuda" if CUDA else "cpu"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the kernels' functions has been called, by its name."""
    from manualbp.fast.gpu import kernels
    from manualbp.fast.gpu.kernels import chain, linear

    assert kernels.takes(torch.ones(1, device="cuda" if CUDA else "cpu"))  # which tries one launch
    counts: Counter[str] = Counter()

    def counted(name: str, right: Any) -> Any:
        def spy(*args: Any) -> Any:
            counts[name] += 1
            return right(*args)

        return spy

    for module, name in ((linear, "forward"), (linear, "input_gradient"), (chain, "step")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return counts


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast mode takes Triton's kernels whatever the shape, until the test ends.

    They are not tried before they run, so that their errors are seen and launches are counted.
    """
    from manualbp.fast.gpu import choice

    monkeypatch.setattr(choice, "prefers_kernel", lambda step: True)
    monkeypatch.setattr(choice, "works", lambda step, x, by_kernel: True)
