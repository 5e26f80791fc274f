"""The update as a formula: w <- w - epsilon dC/dw."""

from __future__ import annotations

import pytest
import torch

from manualbp.maths.descent import descend


@pytest.mark.parametrize("epsilon", [0.25, 1, torch.tensor(0.25), torch.tensor([0.25])], ids=str)
def test_formula(epsilon: float | torch.Tensor) -> None:
    w, idle = torch.tensor([2.0, -1.0], requires_grad=True), torch.ones(2, requires_grad=True)
    w.grad = torch.tensor([4.0, 8.0])
    descend([w, idle], epsilon)
    assert torch.equal(w, torch.tensor([2.0, -1.0]) - float(epsilon) * w.grad)  # exact: powers of 2
    assert torch.equal(idle, torch.ones(2))
