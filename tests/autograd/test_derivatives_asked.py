"""A backward pass over derivatives gives the gradients it is asked for, each by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manualbp
from manualbp.autograd import nested
from manualbp.maths.order import Second, order_of

LINES = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
# Two ways to the same derivatives; float32 may run in C++.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("lines", [None, LINES], ids=["axes", "lines"])
@pytest.mark.parametrize("second", [None, "laplacian", "diagonal", "hessian", ((1, 1), (0, 1))])
def test_one_at_a_time(
    second: Second, lines: torch.Tensor | None, recorded: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(2, 5, bias=False), nn.Tanh(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 1))
    model = nn.Sequential(*layers).to(dtype)
    x = torch.randn(6, 2, dtype=dtype, requires_grad=True)
    lines = lines if lines is None else lines.to(dtype)

    def loss(found: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return sum((part.sin().sum() for part in found), torch.zeros(()))

    everything = [*model.parameters(), x]
    order = order_of(second, 2 if lines is None else len(lines))
    wanted = torch.autograd.grad(loss(nested.derivatives(model, x, order, lines)), everything)
    for tensor, right in zip(everything, wanted, strict=True):
        cost = loss(manualbp.derivatives(model, x, second, lines))
        (found,) = torch.autograd.grad(cost, tensor, create_graph=recorded)
        torch.testing.assert_close(found, right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
