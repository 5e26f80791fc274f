"""Where PyTorch raises, ours raises what the same ``except`` catches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.modules.cost import LOSSES
from manualbp.modules.losses import OURS

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")

OUTPUTS = [(), (3,), (4, 3), (4, 1), (0, 3)]
TARGETS = [(), (3,), (4, 3), (4,), (5, 2)]
KINDS = [torch.float32, torch.int64, torch.complex64]
TARGET_KINDS = [*KINDS, torch.float64, torch.int32, torch.uint8]


def of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.ones(shape, dtype=dtype)
    return values.requires_grad_(dtype in (torch.float32, torch.complex64))


def error_of(step: Callable[[], Any]) -> Exception | None:
    """What a step raises, in forward or in backward."""
    try:
        cost = step()
        if isinstance(cost, Tensor) and cost.requires_grad:
            cost.sum().backward()
    except Exception as error:
        return error
    return None


def caught(ours: Callable[[], Any], theirs: Callable[[], Any]) -> bool:
    """Whether an ``except`` of what ``theirs`` raises catches what ``ours`` raises."""
    expected, got = error_of(theirs), error_of(ours)
    return expected is None or isinstance(got, type(expected))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_targets_that_do_not_fit(loss: type[nn.Module], reduction: str) -> None:
    ours, theirs = getattr(manualbp, loss.__name__)(reduction=reduction), loss(reduction=reduction)
    wrong, raised = [], 0
    for case in itertools.product(OUTPUTS, KINDS, TARGETS, TARGET_KINDS):
        o, y = of(*case[:2]), of(*case[2:]).detach()
        raised += error_of(lambda: theirs(o, y)) is not None  # noqa: B023
        if not caught(lambda: ours(o, y), lambda: theirs(o, y)):  # noqa: B023
            wrong.append(case)
    assert wrong == [] and raised > 50


@pytest.mark.parametrize("loss", LOSSES, ids=lambda kind: kind.__name__)
def test_what_is_no_tensor(loss: type[nn.Module]) -> None:
    """PyTorch's own error, since its own forward runs."""
    o = torch.zeros(2, 3, requires_grad=True)
    for arguments in [(o, [0.0]), ([0.0], o), (o, None), (o, o.detach().numpy()), (o, 1.0)]:
        expected = error_of(lambda: loss()(*arguments))  # noqa: B023
        got = error_of(lambda: getattr(manualbp, loss.__name__)()(*arguments))  # noqa: B023
        assert type(got) is type(expected) and str(got) == str(expected) != "None"


@pytest.mark.parametrize("loss", [*LOSSES, *OURS], ids=lambda k: f"{k.__module__}.{k.__name__}")
def test_fused_loss(loss: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs, fused = OURS.get(loss, loss)(), manualbp.FusedLoss(net, loss())
    inputs: list[Any] = [torch.rand(4, 3), torch.rand(4, 2), torch.rand(4, 3).double(), [1.0]]
    targets: list[Any] = [of(shape, kind).detach() for shape in TARGETS for kind in TARGET_KINDS]
    for x, y in itertools.product(inputs, [*targets, torch.full((4,), 7), None]):
        assert caught(lambda: fused(x, y), lambda: theirs(net(x), y)), (x, y)  # noqa: B023


@pytest.mark.parametrize(
    "child",
    [
        nn.Softplus("1 or so"),  # type: ignore[arg-type]
        nn.ELU(None),  # type: ignore[arg-type]
        nn.GELU("exact"),
        nn.LayerNorm(4, eps="small"),  # type: ignore[arg-type]
        nn.LayerNorm((2, 2)),
        nn.RMSNorm(4, eps="small"),  # type: ignore[arg-type]
        nn.BatchNorm1d(4, momentum="a lot"),  # type: ignore[arg-type]
        nn.BatchNorm1d(5),
    ],
    ids=repr,
)
def test_options_that_are_wrong(child: nn.Module) -> None:
    x, layers = torch.rand(5, 3), [nn.Linear(3, 4), child]
    assert error_of(lambda: nn.Sequential(*layers)(x)) is not None
    assert caught(lambda: manualbp.Sequential(*layers)(x), lambda: nn.Sequential(*layers)(x))
    manualbp.explain(manualbp.Sequential(*layers))  # which is no call, so no error


@pytest.mark.parametrize("lr", [-1, "fast", None, 1j, [0.1], torch.ones(2), torch.tensor(-1.0)])
def test_learning_rates(lr: Any) -> None:
    w = nn.Parameter(torch.zeros(1))
    assert error_of(lambda: torch.optim.SGD([w], lr)) is not None
    assert caught(lambda: manualbp.GradientDescent([w], lr), lambda: torch.optim.SGD([w], lr))


def test_probabilities_of_another_dtype() -> None:
    """Bit-exact: torch.nn takes them, and its own forward runs."""
    torch.manual_seed(0)
    o, y = torch.randn(4, 3), torch.rand(4, 3).double()
    found = []
    for package in (manualbp, nn):
        x = o.clone().requires_grad_()
        package.CrossEntropyLoss()(x, y).backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_another_class_of_error_is_found() -> None:
    def raising(kind: type[Exception]) -> Callable[[], Any]:
        def step() -> None:
            raise kind

        return step

    assert caught(raising(NotImplementedError), raising(RuntimeError))
    assert not caught(raising(ValueError), raising(RuntimeError))
    assert not caught(lambda: None, raising(RuntimeError))
