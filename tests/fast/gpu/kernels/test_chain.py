"""A narrow net's step in one launch, as FusedLoss runs it, against autograd and float64.

The judge is the harness's own: at most 2 times autograd's distance from float64, and its floors.
Its cotangents are random, so never 1.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from manualbp.fast.gpu.kernels import chain
from manualbp.maths import activations
from manualbp.maths.activations import Activation, to_module
from tests.fast.gpu.kernels.costs import TANH, network, wrong
from tests.fast.gpu.kernels.judged import DTYPES, FS

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("by_kernels")]

LOSSES: list[nn.Module] = [
    nn.MSELoss(),
    nn.L1Loss(),
    nn.HuberLoss(delta=0.7),
    nn.SmoothL1Loss(beta=0.3),
    nn.SmoothL1Loss(beta=0.0),
    nn.BCEWithLogitsLoss(),
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(ignore_index=2),
    nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=-1),
]


@pytest.mark.parametrize("f", FS, ids=str)
def test_every_activation(f: Activation, device: str, launches: Counter[str]) -> None:
    assert wrong(network((5, 17, 9, 2), f), nn.MSELoss(), 70, device) == []
    behind = network((5, 17, 9), f).append(to_module(f))  # also behind the last layer
    assert wrong(behind, nn.MSELoss(), 70, device) == []
    assert launches == {"step": 2}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda m: f"{m}{vars(m).get('beta', '')}")
def test_every_loss(
    loss: nn.Module, reduction: str, device: str, launches: Counter[str]
) -> None:  # fmt: skip
    loss = copy.copy(loss)
    loss.reduction = reduction
    assert wrong(network((7, 17, 5)), loss, 70, device) == []
    assert launches == {"step": 1}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "widths",
    [(1, 1), (3, 2), (17, 1), (128, 128), (1, 128, 1), (2, 17, 2), (128, 17, 128, 1),
     (33, 16, 15, 64, 1), (5, 4, 3, 2, 1, 2), (9, 9, 9, 9, 9, 9, 9)],
    ids=str,
)  # fmt: skip
def test_every_depth_and_width(
    widths: tuple[int, ...], bias: bool, device: str, launches: Counter[str]
) -> None:
    """One layer to six."""
    assert wrong(network(widths, bias=bias), nn.MSELoss(), 70, device) == []
    assert launches == {"step": 1}


@pytest.mark.parametrize("rows", [1, 15, 63, 64, 65, 129, 257, 700])
def test_every_number_of_rows(rows: int, device: str, launches: Counter[str]) -> None:
    """One program alone to several with several tiles each, of which the last is not full."""
    assert rows < 700 or rows > 2 * chain.ROWS * chain.INTERPRETED_PROGRAMS
    assert wrong(network((6, 20, 3)), nn.CrossEntropyLoss(), rows, device) == []
    assert wrong(network((6, 20, 3)), nn.L1Loss(), rows, device) == []
    assert launches == {"step": 2}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("f", [activations.ReLU(), activations.GELU(), TANH], ids=str)
def test_every_dtype(
    f: Activation, dtype: torch.dtype, device: str, launches: Counter[str]
) -> None:
    for loss in (nn.MSELoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.HuberLoss()):
        assert wrong(network((20, 40, 5), f), loss, 70, device, dtype) == []
    assert launches == {"step": 3}


ELSEWHERE: dict[str, Callable[[], tuple[nn.Sequential, nn.Module]]] = {
    "129 columns": lambda: (network((6, 129, 3)), nn.MSELoss()),
    "129 inputs": lambda: (network((129, 6, 3)), nn.MSELoss()),
    "17 layers": lambda: (network((6, *[4] * 16, 3)), nn.MSELoss()),
    "weights of classes": lambda: (network((6, 20, 3)), nn.CrossEntropyLoss(torch.arange(1.0, 4))),
    "weights of errors": lambda: (
        network((6, 20, 3)), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    ),
    "a norm": lambda: (network((6, 20, 3)).insert(1, nn.LayerNorm(20)), nn.MSELoss()),
    "two activations": lambda: (network((6, 20, 3)).append(nn.Tanh()).append(nn.ReLU()),
                                nn.MSELoss()),
    "float64": lambda: (network((6, 20, 3)), nn.MSELoss()),
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_goes_elsewhere(name: str, device: str, launches: Counter[str]) -> None:
    """And is right there."""
    net, loss = ELSEWHERE[name]()
    dtype = torch.float64 if name == "float64" else torch.float32
    assert wrong(net, loss.to(device, dtype), 70, device, dtype) == []
    assert launches["step"] == 0
