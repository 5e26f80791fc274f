"""Arms that call sys.exit: what they raised, like any error, and no end of the program."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients, compare_training, load_parameters
from manualbp.parity.arms.subject import Exited
from tests.parity.test_wrong_arms import NoGradient, double, normal, reasons


class Leaves(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        sys.exit("no kernel")


def leaves(x: Tensor) -> Tensor:
    sys.exit(3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(leaves, "the candidate raised Exited: SystemExit(3)"),
     (Leaves, "the candidate raised Exited: SystemExit('no kernel')")],
)  # fmt: skip
def test_an_arm_that_leaves_has_raised(wrong: Any, words: str) -> None:
    """Each kind of run, too; the reference's is raised as an error that ends no program."""
    assert reasons(wrong, double, normal(4, 3)) == {"output": words}
    for kind in ("second_order", "forward_mode", "vmap"):
        report = compare_gradients(wrong, double, normal(4, 3), also=kind, power=False, seeds=(0,))
        assert words in {tensor.reason for check in report.checks for tensor in check.tensors
                         if check.kind == "backward"}  # fmt: skip
    with pytest.raises(Exited, match="SystemExit"):
        compare_gradients(double, wrong, normal(4, 3))


def test_a_candidate_that_leaves_ends_its_training_alone() -> None:
    """In its forward, its backward, its loss or its optimizer; the modules are as before."""

    class Step(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            sys.exit(4)

    class Leaving(nn.Linear):
        forward = staticmethod(leaves)  # type: ignore[assignment]

    class Backward(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return Leaves.apply(super().forward(x))

    linear = nn.Linear(3, 2)
    for kind, options in [
        (Leaving, {}),
        (Backward, {}),
        (nn.Linear, {"candidate_loss": lambda output, target: sys.exit(5)}),
        (nn.Linear, {"optimizers": {"mine": (Step, torch.optim.SGD)}}),
    ]:
        candidate = kind(3, 2)
        load_parameters(candidate, linear)
        before = copy.deepcopy(candidate.state_dict())
        given: dict[str, Any] = {"optimizers": "sgd", "steps": 2, "dtypes": (torch.float32,)}
        report = compare_training(candidate, linear, [(normal(4, 3), normal(4, 2))], nn.MSELoss(),
                                  **{**given, **options})  # fmt: skip
        (run,) = report.runs
        assert run.outside is not None and run.outside.step == 1
        assert "the candidate raised Exited: SystemExit(" in run.outside.reason
        assert all(torch.equal(v, before[name]) for name, v in candidate.state_dict().items())
