"""dC/dW = delta^T h in registers: every height and width of a block, and more rows than one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manualbp
from manualbp.fast import native

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")
ROUNDINGS = 300 * 2.0**-24  # of a sum of so many float32, at most


@pytest.mark.parametrize("rows", [1, 7, 128, 129, 300])
@pytest.mark.parametrize("inputs", [1, 2, 8, 15, 16, 17, 48, 63, 64, 65, 130, 256, 257])
def test_of_every_shape(inputs: int, rows: int) -> None:
    """Beside float64, number by number: up to roundings of the terms' sizes."""
    torch.manual_seed(inputs)
    for outputs in (1, 2, 3, 4, 5, 6, 7, 64):
        x, g = torch.randn(rows, inputs), torch.randn(rows, outputs)
        model = manualbp.Sequential(nn.Linear(inputs, outputs))
        fused = manualbp.FusedLoss(model, nn.MSELoss(reduction="sum"), tile_rows=rows)
        fused.backward(x, model(x).detach() - g / 2)  # delta = 2 (o - y) = g
        grad = model[0].weight.grad
        assert grad is not None
        off = (grad - g.double().t() @ x.double()).abs()
        assert (off <= 4 * ROUNDINGS * (g.abs().t() @ x.abs() + 1)).all(), outputs
