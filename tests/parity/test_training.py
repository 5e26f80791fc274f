"""compare_training: correct pairs agree, planted faults are caught and dated."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity.training import compare_training
from manualbp.parity.training_record import TrainingReport
from tests.parity.training_pairs import (
    Chunked,
    Wide,
    batches,
    faulty,
    net,
    only,
    other,
)

F32, F64 = torch.float32, torch.float64


def compare(candidate: nn.Module, reference: nn.Module, **options: Any) -> TrainingReport:
    """12 steps, SGD, float32, where nothing else is asked for."""
    given = {"optimizers": ("sgd",), "steps": 12, "dtypes": (F32,), "data": batches()} | options
    return compare_training(candidate, reference, given.pop("data"), nn.MSELoss(), **given)


def test_the_same_module_agrees_by_the_bit() -> None:
    reference = nn.Sequential(net(), nn.Dropout(0.3), nn.BatchNorm1d(2))
    report = compare_training(copy.deepcopy(reference), reference, batches(), nn.MSELoss(), steps=4)
    assert report.agrees and report.bit_identical and not report.interrupted
    names = [run.name for run in report.runs]
    assert names == ["sgd-float32-seed0", "sgd-float64-seed0",
                     "adam-float32-seed0", "adam-float64-seed0"]  # fmt: skip
    assert all(run.steps == run.planned == 4 and run.power is not None for run in report.runs)
    assert report.setup["optimizer adam"].startswith("Adam(lr=0.001")


@pytest.mark.parametrize("kind", [Chunked, Wide])
@pytest.mark.parametrize("dtype", [F32, F64, torch.bfloat16], ids=str)
def test_another_order_of_summation_agrees(dtype: torch.dtype, kind: Any) -> None:
    reference = net(nn.GELU, normalized=True).to(dtype)
    data = [(x.to(dtype), y.to(dtype)) for x, y in batches()]
    report = compare(other(reference, kind), reference, data=data, dtypes=None, twins=4,
                     optimizers=("adam",))  # fmt: skip
    assert report.agrees, [(r.outside, r.forced, r.power) for r in report.runs]
    assert [r.dtype for r in report.runs] == list(dict.fromkeys([str(dtype)[6:], "float64"]))


FAULTS: dict[str, tuple[str, Any]] = {
    "x 8, Adam": ("adam", lambda _, g: g * 8),
    "output bias missing, SGD": ("sgd", only("4.bias", 0.0)),
    "dW2 x 1.01, Adam": ("adam", only("2.weight", 1.01)),
    "plus 1e-4, Adam": ("adam", only("2.weight", 1.0001)),
    "plus 1e-4, SGD": ("sgd", only("0.bias", 1.0001)),
}


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gradient_is_caught_at_step_1(fault: str, dtype: torch.dtype) -> None:
    """Both ways: by itself outside the envelope, and at the reference's state."""
    optimizer, change = FAULTS[fault]
    reference = net()
    report = compare(faulty(reference, change), reference, optimizers=(optimizer,), dtypes=(dtype,),
                     steps=3, twins=5)  # fmt: skip
    (run,) = report.runs
    assert report.verdict == "DIFFER" and run.outside is not None and run.forced is not None
    changed = {f"{n}.grad" for n, p in reference.named_parameters() if (change(n, p) != p).any()}
    assert run.forced.step == run.outside.step == 1
    assert set(run.forced.tensors) == changed
    assert changed <= set(run.outside.tensors)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_a_fault_in_a_later_step_is_dated(dtype: torch.dtype) -> None:
    """The candidate is called twice in a step: by itself and at the reference's state."""
    reference, calls = net(), iter(range(99))

    def late(name: str, g: Tensor) -> Tensor:
        return g * 1.01 if name == "0.weight" and next(calls) >= 2 * 6 else g

    (run,) = compare(faulty(reference, late), reference, dtypes=(dtype,)).runs
    assert run.forced is not None and run.outside is not None
    assert (run.forced.step, run.forced.tensors) == (7, ("0.weight.grad",))
    assert run.outside.step == 7
    assert (
        "0.weight.grad" in run.forced.reason and len(run.curves["forced/0.weight.grad"].steps) == 12
    )


def test_gradients_missing_nan_or_of_another_shape() -> None:
    reference = net()
    detached = other(reference)
    detached[2].weight.requires_grad_(False)
    (run,) = compare(detached, reference, steps=2).runs
    assert run.outside is not None and run.outside.tensors[0] == "2.weight.grad"
    assert "missing in the candidate" in run.outside.reason
    nan = faulty(reference, lambda n, g: g * torch.nan if n == "0.bias" else g)
    (run,) = compare(nan, reference, steps=2).runs
    assert run.outside is not None and "0.bias.grad: NaN or infinity" in run.outside.reason
    assert run.forced is not None and run.forced.tensors == ("0.bias.grad",)


def test_a_candidate_that_raises_ends_its_training() -> None:
    class Raises(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) < 8:
                raise RuntimeError("expected\n8 rows")
            return super().forward(x)

    torch.manual_seed(0)
    reference, candidate = nn.Linear(4, 2), Raises(4, 2)
    candidate.load_state_dict(reference.state_dict())
    (run,) = compare(candidate, reference, data=batches(last=6)).runs
    assert run.outside is not None and run.outside.step == 5
    assert "the candidate raised RuntimeError: expected 8 rows" in run.outside.reason


def test_a_reference_that_diverges_cannot_judge() -> None:
    reference = net(nn.ReLU)
    wild = {"wild": lambda p: torch.optim.SGD(p, 1e6)}
    (run,) = compare(other(reference), reference, optimizers=wild, teacher_forced=False).runs
    assert "the reference's loss is" in run.broken and "lower the learning rate" in run.broken
    assert run.verdict == "NOT JUDGED" and run.steps < 12


def test_exact_asks_for_every_bit() -> None:
    reference = net()
    (run,) = compare(other(reference, Wide), reference, exact=True, twins=0).runs
    assert run.outside is not None and "other bits" in run.outside.reason
    (run,) = compare(copy.deepcopy(reference), reference, exact=True, twins=0).runs
    assert run.verdict == "agree" and run.bit_identical
