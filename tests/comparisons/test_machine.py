"""What is said of the machine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comparisons import machine
from manualbp.parity.cli import options


def test_run_names_say_which_gpu() -> None:
    assert machine.stamped("speed", "cpu").startswith("speed-20")
    assert machine.stamped("speed", "Tesla T4 (2)").startswith("speed-tesla-t4-2-20")
    assert options.run_name(machine.stamped("speed", "NVIDIA H100 80GB HBM3"))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: object) -> object:
        def call(x: Tensor) -> Tensor:
            raise RuntimeError("no working C++ compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    reason = machine.no_compiler(torch.device("cpu"))
    assert reason is not None and "C++ compiler, such as g++ (no working C++ compiler)" in reason
