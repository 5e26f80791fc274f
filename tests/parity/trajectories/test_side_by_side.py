"""Two trainings side by side, on modules that know nothing of the hand-written MLP."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import Arm, SideBySide, evaluate, train_side_by_side


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))


def arms(optimizer: Callable[[Any], torch.optim.Optimizer] | None = None) -> tuple[Arm, Arm]:
    make = optimizer or (lambda parameters: torch.optim.SGD(parameters, 0.1))
    reference = module()
    candidate = copy.deepcopy(reference)
    return (
        Arm("candidate", candidate, nn.MSELoss(), make(candidate.parameters())),
        Arm("reference", reference, nn.MSELoss(), make(reference.parameters())),
    )


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(6, 4, generator=generator), torch.randn(6, 2, generator=generator)


def report_of(candidate: Arm, reference: Arm, count: int = 30) -> SideBySide:
    report = SideBySide()
    for step in train_side_by_side(candidate, reference, batches(count)):
        report.add(step)
    return report


def test_equal_arms_are_bit_identical_dropout_included() -> None:
    candidate, reference = arms()
    before = copy.deepcopy(reference.module.state_dict())
    report = report_of(candidate, reference)
    assert report.bit_identical and report.steps == 30 and report.worst is None
    assert report.milliseconds("candidate") > 0
    moved = reference.module.state_dict()
    assert not any(torch.equal(before[name], moved[name]) for name in before)


def test_the_same_as_training_alone() -> None:
    """Bit-exact with a plain loop: being compared changes nothing."""
    candidate, reference = arms()
    alone = copy.deepcopy(reference.module)
    optimizer = torch.optim.SGD(alone.parameters(), 0.1)
    torch.manual_seed(5)
    for x, y in batches(10):
        optimizer.zero_grad()
        nn.functional.mse_loss(alone(x), y).backward()
        optimizer.step()
    torch.manual_seed(5)
    report_of(candidate, reference, 10)
    for p, q in zip(alone.parameters(), candidate.module.parameters(), strict=True):
        assert torch.equal(p, q)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "x 8": lambda g: g * 8,
    "sign": lambda g: -g,
    "missing": torch.zeros_like,
    "1 ulp": lambda g: torch.nextafter(g, torch.full_like(g, torch.inf)),
    "nan": lambda g: g * torch.nan,
}


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_gradient_is_seen_at_the_first_step(fault: str, make: Any) -> None:
    """Also those that Adam or the loss curve would hide."""
    candidate, reference = arms(lambda parameters: make(parameters, lr=0.01))
    weight = candidate.module.get_parameter("3.weight")
    weight.register_hook(FAULTS[fault])
    report = report_of(candidate, reference)
    assert not report.bit_identical and report.first_difference is not None
    step, names = report.first_difference
    assert step == 1 and names[0] == "3.weight.grad"
    assert report.worst is not None and report.worst.divergence > 0


def test_a_fault_in_a_later_step_is_dated() -> None:
    candidate, reference = arms()
    calls = iter(range(100))
    candidate.module.get_parameter("0.bias").register_hook(
        lambda g: g * 1.01 if next(calls) == 6 else g
    )
    report = report_of(candidate, reference)
    assert report.first_difference == (7, ["0.bias.grad", "0.bias"])


def test_a_faulty_update_is_seen() -> None:
    candidate, reference = arms()
    candidate.optimizer.param_groups[0]["lr"] *= 1.001
    report = report_of(candidate, reference)
    assert report.first_difference is not None
    assert report.first_difference[0] == 1 and "loss" not in report.first_difference[1]


def test_no_step_is_no_agreement() -> None:
    assert not SideBySide().bit_identical


def test_numbers_of_a_step() -> None:
    """Bit-exact for the loss; the norm in float64, relative 1e-6 for the fp32 gradients."""
    candidate, reference = arms()
    reference.module.eval(), candidate.module.eval()
    x, y = next(batches(1))
    loss = nn.functional.mse_loss(reference.module(x), y)
    gradients = torch.autograd.grad(loss, list(reference.module[3].parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    reference.optimizer.param_groups[0]["lr"] = 0.05  # as a schedule does
    (step,) = train_side_by_side(candidate, reference, batches(1))
    assert step.number == 1 and step.reference.metrics == {"loss": loss.item()}
    assert (step.candidate.learning_rate, step.reference.learning_rate) == (0.1, 0.05)
    assert step.reference.gradient_norms["3"] == pytest.approx(norm, rel=1e-6)
    assert set(step.divergence) == {"loss"} | {
        name + kind for name, _ in reference.module.named_parameters() for kind in ("", ".grad")
    }


def test_evaluate_leaves_no_trace() -> None:
    candidate, _ = arms()
    x, y = next(batches(1))
    quiet = copy.deepcopy(candidate.module).eval()  # no dropout; bit-exact
    expected = {"loss": nn.functional.mse_loss(quiet(x), y).item()}
    assert evaluate(candidate, x, y) == expected
    assert candidate.module.training
    candidate.module.eval()
    evaluate(candidate, x, y)
    assert not candidate.module.training
    next(candidate.module.children()).train()  # one alone
    evaluate(candidate, x, y)
    assert [child.training for child in candidate.module.children()].count(True) == 1
    assert all(p.grad is None for p in candidate.module.parameters())


def first(candidate: Arm, reference: Arm, data: Any) -> None:
    next(train_side_by_side(candidate, reference, data))


def test_bad_input_changes_nothing() -> None:
    candidate, reference = arms()
    x, y = next(batches(1))
    before = copy.deepcopy(reference.module.state_dict())
    holed = x.index_fill(0, torch.tensor([2]), torch.nan)
    for data, message in [
        ([], "at least one batch, got none"),
        ([(x[:0], y[:0])], "at least one, got 0 and 0"),
        ([(x, y[:2])], "got 6 and 2"),
        ([(holed, y)], r"batch 1: expected finite inputs, got 4 NaN of 24"),
        ([(x, y / 0)], "expected finite targets, got 12"),
    ]:
        with pytest.raises(ValueError, match=message):
            first(candidate, reference, data)
    for arm in (candidate, reference):
        assert all(torch.equal(v, before[name]) for name, v in arm.module.state_dict().items())


def test_arms_that_cannot_be_compared_are_refused() -> None:
    candidate, reference = arms()
    with pytest.raises(ValueError, match="two names"):
        first(reference, reference, batches(1))
    shared = Arm("shared", reference.module, reference.loss, reference.optimizer)
    with pytest.raises(ValueError, match=r"both train the same 0\.weight; give one arm"):
        first(shared, reference, batches(1))
    with torch.no_grad():
        candidate.module[3].bias.add_(1)
    with pytest.raises(ValueError, match=r"different 3\.bias; use candidate\.load_state_dict"):
        first(candidate, reference, batches(1))


def test_losses_that_differ_are_seen_where_gradients_do_not() -> None:
    """A loss off by a constant: the gradients are alike, bit-exact."""
    candidate, reference = arms()
    off = Arm("off", candidate.module, lambda o, y: nn.functional.mse_loss(o, y) + 1,
              candidate.optimizer)  # fmt: skip
    (step,) = train_side_by_side(off, reference, batches(1))
    assert step.divergence["loss"] == pytest.approx(1, rel=1e-6)  # float32
    assert step.divergence["3.weight.grad"] == step.divergence["3.weight"] == 0


def normalized(momentum: float = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, momentum=momentum))


def sgd_arm(name: str, net: nn.Module) -> Arm:
    return Arm(name, net, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))


def test_buffers_are_compared_at_the_start_and_after_every_step() -> None:
    moved = normalized()
    moved[1].running_mean += 1
    with pytest.raises(ValueError, match=r"different 1\.running_mean"):
        first(sgd_arm("a", moved), sgd_arm("b", normalized()), batches(1))
    report = report_of(sgd_arm("a", normalized(0.2)), sgd_arm("b", normalized()), 3)
    assert report.first_difference == (1, ["1.running_mean", "1.running_var"])


def test_evaluate_records_no_graph() -> None:
    seen = []
    candidate, _ = arms()
    watching = Arm("a", candidate.module, lambda o, y: seen.append(o.requires_grad) or o.sum(),
                   candidate.optimizer)  # fmt: skip
    evaluate(watching, *next(batches(1)))
    assert seen == [False]


def test_norms_are_taken_in_double() -> None:
    """sqrt(1 + 0.25) is no bfloat16."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, 2, dtype=torch.bfloat16))
            self.empty = nn.Parameter(torch.empty(0))  # nothing to compare, nothing to break

        def forward(self, x: Tensor) -> Tensor:
            return (self.w * torch.tensor([1.0, 0.5])).sum() + self.empty.sum()

    pair = [
        Arm(name, net, lambda o, y: o, torch.optim.SGD(net.parameters(), 0.1))
        for name, net in (("a", Slope()), ("b", Slope()))
    ]
    (step,) = train_side_by_side(*pair, batches(1))
    assert step.candidate.gradient_norms["w"] == pytest.approx(1.25**0.5, rel=1e-12)
