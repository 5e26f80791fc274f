"""The arms in PyTorch take the same step: equal gradients from equal weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from comparisons import machine
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    COMPILE,
    COMPILE_LOSS,
    COMPILE_MAX,
    EXACT,
    FAST,
    FUSED,
    NO_GRAPH,
    Computed,
    problem,
)
from comparisons.speed.arms.costs import COSTS
from comparisons.speed.arms.pytorch import Compiler, eager_arms
from comparisons.speed.workloads import LAPLACIAN, TRAINING, Workload
from manualbp.fast.gpu import kernels
from tests.comparisons.speed.arms.equal_gradients import CPU, differing, of


@pytest.mark.parametrize("step", COSTS)
def test_eager_arms(step: str) -> None:
    """fp32, 3 layers, sums over 600 rows, up to third derivatives: relative 1e-4."""
    outputs = 3 if step == TRAINING else 1
    found = eager_arms(of(step, (4, 128, 64, outputs), 600, "tanh", "float32"))
    fused = [FUSED, NO_GRAPH] if step == TRAINING else []
    assert list(found) == [AUTOGRAD, EXACT, FAST, *fused]
    assert differing(found, 1e-4) == []


def test_fused_is_absent_where_it_would_fall_back() -> None:
    assert FUSED not in eager_arms(of(TRAINING, (4, 8, 1), 16, "tanh", "bfloat16"))


def test_fused_is_there_in_half_precision_where_it_is_one_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "takes", lambda x: True)
    narrow, wide = ((4, width, 1) for width in (128, 129))
    assert FUSED in eager_arms(of(TRAINING, narrow, 16, "tanh", "float16"))
    assert FUSED not in eager_arms(of(TRAINING, wide, 16, "tanh", "float16"))


def test_another_step_is_noticed() -> None:
    given = of(TRAINING, (4, 8, 3), 16, "tanh")
    found = eager_arms(given)
    wrong = eager_arms(replace(given, y=given.y * 1.001))[EXACT]
    assert differing({**found, "wrong": wrong}, 1e-6) == ["wrong"]
    less = Computed(1.0, found[EXACT].computed().gradients[:-1])
    fewer = replace(found[EXACT], computed=lambda: less)
    assert differing({**found, "fewer": fewer}, 1e-6) == ["fewer"]


@pytest.mark.slow
def test_compiled() -> None:
    """fp64, relative 1e-10: a compiler may take the sums in another order."""
    compiler = Compiler()
    if reason := machine.no_compiler(CPU):
        pytest.skip(reason)
    for batch in (16, 40):
        given = of(TRAINING, (4, 8, 3), batch, "tanh")
        for dynamic in (False, True):
            arms = {**eager_arms(given), **compiler.arms(given, dynamic)}
            assert (COMPILE in arms) is not dynamic and COMPILE_LOSS in arms
            assert differing(arms, 1e-10) == []
    assert compiler.arms(of(LAPLACIAN, (2, 8, 1), 8, "tanh"), False) == {}


def test_max_autotune_is_an_arm_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of model and loss, for the one batch; its memory nobody tells."""
    asked = []

    def compiled(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(nn.Module, "compile", lambda module: None)
    given = of(TRAINING, (4, 8, 3), 16, "tanh")
    arms = Compiler(tuning=True).arms(given, dynamic=False)
    assert {"mode": "max-autotune"} in asked and list(arms)[-1] == COMPILE_MAX
    assert differing({**eager_arms(given), **arms}, 1e-10) == []
    assert arms[COMPILE_MAX].peak() is None and arms[COMPILE].peak() is not None
    for compiler, dynamic in ((Compiler(tuning=True), True), (Compiler(), False)):
        assert COMPILE_MAX not in compiler.arms(given, dynamic)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_max_autotune_on_a_gpu() -> None:
    """fp64, relative 1e-10, at its record, its replay, and after another arm's step."""
    compiler = Compiler(tuning=True)
    if reason := machine.no_compiler(torch.device(0)):
        pytest.skip(reason)
    given = problem(Workload(TRAINING, (4, 64, 3), 64, "tanh", "float64"), 0, torch.device(0))
    arms = {**eager_arms(given), **compiler.arms(given, dynamic=False)}
    assert COMPILE_MAX in arms
    for _ in range(4):
        assert differing(arms, 1e-10) == []
