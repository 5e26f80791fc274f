"""scikit-learn's own backpropagation against ours, on the same weights and batch.

It computes loss and gradients in one private function, so both arms have the loss inside. Its
loss is half the mean over all outputs, its gradients are divided by the rows alone: with two
outputs they are twice the loss's, which the last test lets the harness find.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.parity import compare_gradients, load_parameters

neural_network = pytest.importorskip("sklearn.neural_network")

DTYPES = [torch.float32, torch.float64]


class HalfSquaredError(nn.Module):
    """C = mean (o - y)^2 / 2 over all outputs, o by hand."""

    def __init__(self, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.model = manualbp.MLP(widths, activation=activation)
        if activation == "identity":
            self.model = manualbp.Sequential(*(m for m in self.model if isinstance(m, nn.Linear)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.model(x) - y).square().mean() / 2


class Backprop(torch.autograd.Function):
    """``Backprop.apply(regressor, x, y, *coefs, *intercepts)``: the loss, all by scikit-learn."""

    @staticmethod
    def forward(ctx: Any, regressor: Any, x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
        arrays, layers = [w.detach().numpy() for w in weights], len(weights) // 2
        regressor.coefs_, regressor.intercepts_ = arrays[:layers], arrays[layers:]
        activations: list[Any] = [x.detach().numpy(), *[None] * layers]
        deltas, coefs, intercepts = [None] * layers, [None] * layers, [None] * layers
        loss, *gradients = regressor._backprop(
            activations[0], y.detach().numpy(), None, activations, deltas, coefs, intercepts
        )
        # what it has no use for itself, from its deltas: the gradients of x and of y
        ends = deltas[0] @ regressor.coefs_[0].T / len(x), -deltas[-1] / len(x)
        ctx.gradients = [torch.from_numpy(g) for g in (*ends, *gradients[0], *gradients[1])]
        return x.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, *(grad * g for g in ctx.gradients)


class ScikitLearn(nn.Module):
    """MLPRegressor's numbers behind parameters of PyTorch's names and shapes."""

    def __init__(self, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()
        hidden = {"sigmoid": "logistic"}.get(activation, activation)
        self.regressor = neural_network.MLPRegressor(activation=hidden, alpha=0.0)
        # what its fit would set
        self.regressor.n_layers_, self.regressor.out_activation_ = len(widths), "identity"
        step = 1 if activation == "identity" else 2
        self.model = nn.ModuleDict(
            {str(i * step): nn.Linear(*fan) for i, fan in enumerate(pairwise(widths))}
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        layers = list(self.model.values())
        weights = [layer.weight.t() for layer in layers] + [layer.bias for layer in layers]
        return Backprop.apply(self.regressor, x, y, *weights)


def pair(widths: tuple[int, ...], activation: str, dtype: torch.dtype) -> Any:
    """Candidate, reference and inputs."""
    torch.manual_seed(0)
    reference = HalfSquaredError(widths, activation).to(dtype)
    candidate = ScikitLearn(widths, activation).to(dtype)
    load_parameters(candidate, reference)
    return candidate, reference, (torch.randn(12, widths[0], dtype=dtype),
                                  torch.randn(12, widths[-1], dtype=dtype))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "sigmoid"])
def test_its_backprop_agrees_with_ours(activation: str, dtype: torch.dtype) -> None:
    report = compare_gradients(*pair((5, 16, 8, 1), activation, dtype))
    assert report.agrees, (report.verdict, report.differing, report.power)
    assert len(report.tensors) == 9


def test_its_penalty_is_a_fault_here() -> None:
    """alpha adds alpha w^2 / 2N to its loss and alpha w / N to its weight gradients."""
    candidate, reference, inputs = pair((3, 8, 1), "tanh", torch.float64)
    candidate.regressor.alpha = 1e-4
    report = compare_gradients(candidate, reference, inputs)
    names = {tensor.name for tensor in report.differing}
    assert names == {"output", "model.0.weight.grad", "model.2.weight.grad"}


def test_with_two_outputs_its_gradients_are_twice_its_losss() -> None:
    candidate, reference, inputs = pair((3, 8, 2), "tanh", torch.float64)
    report = compare_gradients(candidate, reference, inputs)
    assert {t.name for t in report.tensors} - {t.name for t in report.differing} == {"output"}
    worst = [t.worst for t in report.differing]
    assert all(w and w.got == pytest.approx(2 * w.expected, rel=1e-10) for w in worst)
