"""One arm of a training: what of it is compared after a step, copied and given back."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import TrainingReport, compare_training
from manualbp.parity.arms.calls import Call
from manualbp.parity.arms.subject import subject
from manualbp.parity.arms.trainee import Trainee
from tests.parity.training_pairs import batches

ADAM = partial(torch.optim.Adam, lr=1e-3)


def counting() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


def compare(candidate: nn.Module, reference: nn.Module, **options: Any) -> TrainingReport:
    given = {"optimizers": "sgd", "steps": 4, "dtypes": (torch.float32,), **options}
    return compare_training(candidate, reference, batches(), nn.MSELoss(), **given)


class Uncounted(nn.BatchNorm1d):
    """Trains as BatchNorm does, but forgets to count its batches from the third on."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        assert self.num_batches_tracked is not None
        if self.num_batches_tracked > 2:
            self.num_batches_tracked -= 1
        return found


def test_a_count_of_batches_is_compared() -> None:
    """Whole numbers: no rounding moves them, so that one off is outside at once."""
    reference = counting()
    candidate = copy.deepcopy(reference)
    assert compare(candidate, reference).agrees
    candidate[1].__class__ = Uncounted
    (run,) = compare(candidate, reference).runs
    assert run.outside is not None and run.outside.step == 3
    assert run.outside.tensors == ("1.num_batches_tracked",)
    assert "rms distance 1.00e+00, allowed 0.00e+00" in run.outside.reason
    assert [finding.kind for finding in run.findings] == ["buffer"] and not run.bit_identical


@pytest.mark.parametrize(
    "buffer",
    [torch.tensor([True, False]), torch.arange(3, dtype=torch.uint8), torch.eye(3).to_sparse(),
     torch.complex(torch.ones(2), torch.zeros(2)), torch.tensor(7), torch.zeros(0)],
    ids=["bool", "uint8", "sparse", "complex", "scalar", "empty"],
)  # fmt: skip
def test_buffers_of_every_kind(buffer: Tensor) -> None:
    """Also where training changes them: then another value is outside the envelope."""

    class Holding(nn.Linear):
        def __init__(self, changes: bool) -> None:
            super().__init__(4, 2)
            self.register_buffer("held", buffer.clone())
            self.changes = changes

        def forward(self, x: Tensor) -> Tensor:
            if self.changes:
                self.held = self.held * 0
            return super().forward(x)

    reference, candidate, changing = Holding(False), Holding(False), Holding(True)
    candidate.load_state_dict(reference.state_dict())
    changing.load_state_dict(reference.state_dict())
    assert compare(candidate, reference).agrees
    (run,) = compare(changing, reference).runs
    changed = () if not buffer.numel() else ("held",)
    assert (run.outside.tensors if run.outside else ()) == changed


def test_teacher_forcing_copies_no_state_of_the_optimizer() -> None:
    """It gives back parameters and buffers; Adam's state is twice as large as they are."""
    trainee = Trainee(subject(counting()), ADAM)
    trainee.gradients(Call((batches()[0][0],), {}, nn.MSELoss(), batches()[0][1]))
    trainee.update()
    assert set(trainee.numbers()) == {"parameters", "buffers"}
    state, whole = trainee.numbers(), trainee.state()
    with torch.no_grad():
        trainee.parameters["0.weight"].add_(1)
        trainee.subject.buffers["1.running_mean"].add_(1)
    trainee.load(state, optimizer=False)
    for kind in ("parameters", "buffers"):
        assert all(torch.equal(v, whole[kind][n]) for n, v in trainee.state()[kind].items())
    assert torch.equal(trainee.state()["optimizer"]["0.weight"]["exp_avg"],
                       whole["optimizer"]["0.weight"]["exp_avg"])  # fmt: skip


def test_a_twin_has_the_mode_of_every_child() -> None:
    """A norm that is frozen in eval() stays so in the copies."""
    module = counting()
    module[1].eval()
    first, second = subject(module), subject(module).copy()
    assert second.module is not None
    second.module.train()
    second.load(first)
    assert [m.training for m in second.module.modules()] == [m.training for m in module.modules()]
