"""The oracle: against finite differences of its own cost, and with faults planted in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from manualbp import reference
from manualbp.maths import activations as tensor_side
from manualbp.maths.activations import to_module
from manualbp.reference import Network
from manualbp.reference.functions import ACTIVATIONS, LOSSES, Activation


def network(activation: str = "tanh", widths: tuple[int, ...] = (3, 4, 2)) -> Network:
    random = np.random.default_rng(0)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [random.normal(size=shape) for shape in shapes]
    return Network(
        weights, [random.normal(size=len(w)) for w in weights], [activation] * len(weights)
    )


X, Y = np.random.default_rng(1).normal(size=(2, 5, 3))
TARGETS: dict[str, Any] = {
    **dict.fromkeys(("mse", "l1", "huber", "smooth_l1"), Y[:, :2]),
    "bce_with_logits": np.clip(np.abs(Y[:, :2]), 0, 1),
    "cross_entropy": np.array([0, 1, 1, 0, 1]),
}


def cost_of(net: Network, loss: str, x: np.ndarray[Any, Any] = X) -> float:
    return float(reference.cost(reference.forward(net, x).a[-1], TARGETS[loss], loss)[0])


def gradients(net: Network, loss: str) -> reference.Gradients:
    activity = reference.forward(net, X)
    _, slopes = reference.cost(activity.a[-1], TARGETS[loss], loss)
    return reference.backward(net, activity, slopes)


def worst_error(activation: str, loss: str) -> float:
    """Largest distance of a gradient from central differences of step 1e-6, over its size + 1."""
    net = network(activation)
    found, worst = gradients(net, loss), 0.0
    tensors, slopes = (X, *net.weights, *net.biases), (found.input, *found.weights, *found.biases)
    for values, gradient in zip(tensors, slopes, strict=True):
        for index in np.ndindex(values.shape):
            old, sides = values[index], []
            for step in (1e-6, -1e-6):
                values[index] = old + step
                sides.append(cost_of(net, loss))
            values[index] = old
            slope = (sides[0] - sides[1]) / 2e-6
            worst = max(worst, abs(slope - gradient[index]) / (1 + abs(slope)))
    return worst


# Differences of costs of size 1: rounding 1e-16 / 1e-6, truncation 1e-12.
TOLERANCE = 1e-8


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_slopes_of_the_cost(activation: str) -> None:
    assert worst_error(activation, "mse") < TOLERANCE


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_slopes(loss: str) -> None:
    assert worst_error("tanh", loss) < TOLERANCE


def test_planted_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tanh, mse = ACTIVATIONS["tanh"], LOSSES["mse"]
    with monkeypatch.context() as m:
        m.setitem(ACTIVATIONS, "tanh", Activation(tanh.f, lambda z: tanh.df(tanh.f(z))))
        assert worst_error("tanh", "mse") > 1e-3
    with monkeypatch.context() as m:
        m.setitem(LOSSES, "mse", lambda o, y: mse(o, y)._replace(share=1))  # no 1/O
        assert worst_error("tanh", "mse") < TOLERANCE  # cost and slope change together ...
        assert cost_of(network(), "mse") == pytest.approx(2 * _mse())  # ... and the value shows it
    assert cost_of(network(), "mse") == pytest.approx(_mse(), rel=1e-14)


def _mse() -> float:
    """Written once more, with whole arrays."""
    a = X
    for w, b in zip(network().weights, network().biases, strict=True):
        a = np.tanh(a @ w.T + b)
    return float(((a - TARGETS["mse"]) ** 2).mean())


def test_update_descends_and_keeps_the_old_network() -> None:
    net = network()
    before = [w.copy() for w in net.weights]
    found = gradients(net, "mse")
    updated = reference.update(net, found, 0.01)
    assert cost_of(updated, "mse") < cost_of(net, "mse")
    assert all(np.array_equal(w, old) for w, old in zip(net.weights, before, strict=True))
    # Bit-exact: the same two operations.
    assert np.array_equal(updated.weights[0], before[0] - 0.01 * found.weights[0])


def test_extreme_inputs_do_not_overflow() -> None:
    for name in set(ACTIVATIONS) - {"gelu_tanh"}:
        for z in (-800.0, 800.0):
            assert np.isfinite([ACTIVATIONS[name].f(z), ACTIVATIONS[name].df(z)]).all(), name


@pytest.mark.parametrize(
    ("weights", "biases", "activations", "message"),
    [
        ([], [], [], "one weight, bias and activation per layer"),
        ([np.zeros((2, 3))], [None, None], ["tanh"], "got \\(1, 2, 1\\)"),
        ([np.zeros((2, 3)), np.zeros((2, 3))], [None] * 2, ["tanh"] * 2, "layer 2: expected w"),
        ([np.zeros((2, 3))], [np.zeros(3)], ["tanh"], "layer 1: expected w"),
        ([np.zeros((2, 3))], [None], ["tahn"], "activation must be one of"),
    ],
)
def test_wrong_networks(weights: Any, biases: Any, activations: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(weights, biases, activations)
    with pytest.raises(ValueError, match=r"x must be \(N, 3\)"):
        reference.forward(network(), np.zeros(3))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("z", [0.0, 1.0, -1.0, 15.0, 20.0])
def test_slopes_at_kinks_and_thresholds(name: str, z: float) -> None:
    """The side that torch.nn takes; 1e-14: a few roundings of numbers of size 1."""
    point = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    to_module(tensor_side.by_name(name))(point).backward()
    assert ACTIVATIONS[name].df(z) == pytest.approx(point.grad.item(), rel=1e-14, abs=1e-14)
