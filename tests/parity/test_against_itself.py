"""Whatever an arm is and whatever it is given, it never differs from itself.

A check that refuses what is the same is switched off. NOT JUDGED and NO POWER are answers, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manualbp
from comparisons.power.equivalences import EQUIVALENCES
from manualbp.parity import GradientReport, TrainingReport, compare_gradients, compare_training
from manualbp.parity.record import AGREE, DIFFER, NOT_JUDGED
from tests.parity.met import MET, OwnGenerator, RMSNormInFloat32
from tests.parity.themselves import OURS, Subject, equivalence, normal, seeded

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
EVERY_THIRD = 3  # of what is the project's own, in one dtype each; the rest is slow
EVERY = {**OURS, **MET}


def refused(report: GradientReport) -> list[str]:
    """What differs, in words."""
    found = [f"{t.name}: {t.reason}" for t in report.differing]
    return found + [f"{s.name}: {s.words}" for s in report.failed]


def with_itself(subject: Subject, dtype: torch.dtype, **options: Any) -> GradientReport:
    arms = subject.arm(), subject.arm()
    return compare_gradients(*arms, subject.inputs(), dtype=dtype, **options)


def in_turn(names: list[str]) -> list[tuple[str, torch.dtype]]:
    """One dtype for each name."""
    return [(name, DTYPES[i % len(DTYPES)]) for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("name", "dtype"), in_turn([*list(OURS)[::EVERY_THIRD], *MET]), ids=lambda p: str(p)
)
def test_in_one_dtype(name: str, dtype: torch.dtype) -> None:
    assert refused(with_itself(EVERY[name], dtype, seeds=(0,), power=False)) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    """With three seeds and power, and as one and the same object on both sides."""
    subject = EVERY[name]
    if dtype is not torch.float16 or name in MET:
        assert refused(with_itself(subject, dtype)) == []
        arm, inputs = subject.arm(), subject.inputs()
        report = compare_gradients(arm, arm, inputs, dtype=dtype, seeds=(0,), power=False)
        assert refused(report) == []


@pytest.mark.parametrize("name", ["infinity comes in", "norm at 0", "overflow",
                                  "some labels ignored", "float32 inside"])  # fmt: skip
def test_what_can_be_judged_agrees(name: str) -> None:
    assert with_itself(MET[name], torch.float32, seeds=(0,), power=False).verdict == AGREE


@pytest.mark.parametrize("name", ["NaN comes in", "all labels ignored", "softmax of nothing",
                                  "0 / 0", "empty mean", "empty batch"])  # fmt: skip
def test_what_is_nan_is_not_judged(name: str) -> None:
    assert with_itself(MET[name], torch.float32, seeds=(0,), power=False).verdict == NOT_JUDGED


def test_a_float16_that_overflows_is_not_judged() -> None:
    report = with_itself(MET["overflow"], torch.float16, seeds=(0,), power=False)
    assert report.verdict == NOT_JUDGED and not refused(report)


def test_one_that_is_wrong_differs_all_the_same() -> None:
    """The inputs of each judged one above do not hide a fault."""
    for name in ("infinity comes in", "norm at 0", "some labels ignored"):
        subject = MET[name]

        def doubled(*inputs: Tensor, subject: Subject = subject) -> Tensor:
            return 2 * subject.arm()(*inputs) + 1

        report = compare_gradients(doubled, subject.arm(), subject.inputs(), seeds=(0,))
        assert report.verdict == DIFFER, name


# Right in another way: other roundings, the same formula.


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], w, 1e-6)


class FusedRMSNorm(RMSNormInFloat32):
    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_norm_in_float32_and_a_fused_one(dtype: torch.dtype) -> None:
    arms = seeded(FusedRMSNorm)(), seeded(RMSNormInFloat32)()
    assert refused(compare_gradients(*arms, normal(8, 5), dtype=dtype, seeds=(0,))) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", [e for e in EQUIVALENCES if not e.compiled], ids=lambda e: e.name)
def test_two_ways_to_compute_the_same(pair: Any, dtype: torch.dtype) -> None:
    inputs = tuple(x.to(dtype) for x in equivalence(pair).inputs())
    assert refused(compare_gradients(pair.candidate, pair.reference, inputs, power=False)) == []


# Trainings.

DATA = [(normal(6, 5, seed=i), normal(6, 5, seed=9 + i)) for i in range(3)]


def rate(lr: float) -> dict[str, Callable[[Any], torch.optim.Optimizer]]:
    return {"sgd": lambda parameters: torch.optim.SGD(parameters, lr)}


def trained(make: Callable[[], nn.Module], lr: float, *dtypes: torch.dtype) -> TrainingReport:
    return compare_training(
        seeded(make)(), seeded(make)(), DATA, nn.MSELoss(), rate(lr), steps=12, dtypes=dtypes,
        twins=3,
    )  # fmt: skip


def relu_net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 5))


def by_hand() -> nn.Module:
    return manualbp.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5))


def in_float32() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 5), RMSNormInFloat32())


@pytest.mark.parametrize("lr", [3.0, 1e4, 1e30])
@pytest.mark.parametrize("make", [relu_net, by_hand])
def test_a_training_that_diverges(make: Callable[[], nn.Module], lr: float) -> None:
    report = trained(make, lr, torch.float32, torch.float64)
    assert [run.verdict for run in report.runs if run.verdict == DIFFER] == []


def test_a_training_that_diverges_in_sixteen_bits() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert trained(relu_net, 3.0, dtype).verdict == NOT_JUDGED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_with_float32_inside(dtype: torch.dtype) -> None:
    assert trained(in_float32, 0.1, dtype).verdict == AGREE


def test_a_training_with_its_own_generator() -> None:
    """The candidate's draws are not the reference's: nothing can be judged by them."""
    report = trained(OwnGenerator, 0.1, torch.float32)
    assert report.verdict == NOT_JUDGED and "random numbers of its own" in report.runs[0].broken
