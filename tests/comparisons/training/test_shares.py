"""Shares of a batch: every row counts once, whatever the number of processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comparisons.training.shares import Shares


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_weighted_shares_have_the_mean_over_all_rows(size: int, rows: int) -> None:
    """Every row once; to float64 rounding the gradient of the whole batch's mean."""
    torch.manual_seed(0)
    layer, mse = nn.Linear(3, 2, dtype=torch.float64), nn.MSELoss()
    x, y = torch.randn(rows, 3).double(), torch.randn(rows, 2).double()
    seen, total = [], torch.zeros_like(layer.weight)
    for rank in range(size):
        shares = Shares([(x, y)], rank, size)
        ((own_x, own_y),) = shares
        loss = shares.weighted(mse)(layer(own_x), own_y)
        total += torch.autograd.grad(loss, layer.weight)[0] / size
        seen += [own_x] if shares.weight else []
        assert len(own_x) >= 1 and shares.weight == pytest.approx(
            size * (len(own_x) if shares.weight else 0) / rows
        )
    assert torch.equal(torch.cat(seen), x)
    (whole,) = torch.autograd.grad(mse(layer(x), y), layer.weight)
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-15)
