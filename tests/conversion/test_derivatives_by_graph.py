"""Derivatives without C++ where nested autograd is faster than Python: when, and what is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import manualbp
from manualbp.conversion import derivatives as function
from manualbp.fast import native
from tests.conversion.derived import ByHand, Nested, by_hand, everything, mlp, points, same

PAIRS = [(0, 0)]


@pytest.fixture(autouse=True)
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@pytest.mark.parametrize(
    ("inputs", "width", "outputs", "rows", "second", "graph"),
    [
        (2, 32, 1, 128, None, True),
        (2, 32, 2, 128, None, True),
        (3, 32, 4, 128, None, False),  # a pass for each output
        (2, 64, 1, 4096, None, False),  # large
        (1, 32, 1, 128, "laplacian", True),
        (1, 64, 1, 2048, "laplacian", False),
        (2, 32, 1, 128, "laplacian", False),  # one pass for both lines
        (2, 32, 1, 128, "hessian", True),
        (2, 32, 2, 128, "hessian", False),
        (2, 64, 1, 4096, PAIRS, True),
        (2, 64, 2, 4096, PAIRS, False),
    ],
)
def test_which_calls(
    inputs: int, width: int, outputs: int, rows: int, second: Any, graph: bool
) -> None:
    net = mlp(inputs, width, outputs).float()
    x = points(rows, inputs, torch.float32, trained=False)
    assert [by_hand(net, x, second) for _ in range(2)] == [not graph] * 2


@pytest.mark.parametrize("second", [None, "hessian", PAIRS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_has_the_bits_of_nested_autograd(second: Any, dtype: torch.dtype) -> None:
    """Bit-exact, since it is that; the second call does not look at the model first."""
    net, x = mlp(2, 5, 4, 1).to(dtype), points(6, 2, dtype)
    for _ in range(2):
        ours, theirs = (everything(arm(net, second), x, 1) for arm in (ByHand, Nested))
        assert all(map(torch.equal, ours, theirs))
        same(net, x, second)


def test_a_known_model_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = mlp(2, 5, 1), points(6, 2)
    manualbp.derivatives(net, x)

    def looked_at(model: nn.Module) -> Any:
        raise AssertionError

    monkeypatch.setattr(function, "stages_or_reason", looked_at)
    assert not by_hand(net, x, None)
    with pytest.raises(AssertionError):
        manualbp.derivatives(net, x, "laplacian")  # by hand, so it is


def test_a_changed_model_is_right() -> None:
    net, x = mlp(2, 5, 1), points(6, 2)
    manualbp.derivatives(net, x)
    handle = net[1].register_forward_hook(lambda module, args, output: output * 2)
    same(net, x, None)
    handle.remove()
    net.append(nn.Linear(1, 3).double())
    same(net, x, None)


def test_by_hand_where_autograd_would_go_through_python_or_nothing_is_trained() -> None:
    ours, x = manualbp.Sequential(*mlp(2, 5, 1)), points(6, 2)
    assert by_hand(ours, x, None)
    frozen = mlp(2, 5, 1).requires_grad_(False)
    found = manualbp.derivatives(frozen, x.detach())
    assert not any(each.requires_grad for each in found)


def test_explain_says_so() -> None:
    ours = manualbp.Sequential(*mlp(2, 5, 1))
    assert manualbp.explain(mlp(2, 5, 1)).derivatives == "by hand; small calls by nested autograd"
    assert manualbp.explain(ours).derivatives == "by hand"
