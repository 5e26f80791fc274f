"""One step of a small network with every number kept: by NumPy, by hand, and by autograd."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import manualbp
from comparisons.counterparts import linears
from comparisons.walkthrough.examples import Example
from manualbp import reference
from manualbp.maths.activations import by_name, to_module
from manualbp.maths.layers import LINEAR, Elementwise, Needs, Tape

Numbers = list[NDArray[Any]]


class Trace(NamedTuple):
    """Per layer z, a, delta (O,), dC/dw (O, I), dC/db (O,), and w, b after one update; and C.

    A layer without bias has empty arrays for it.
    """

    z: Numbers
    a: Numbers
    deltas: Numbers
    cost: float
    grad_weights: Numbers
    grad_biases: Numbers
    new_weights: Numbers
    new_biases: Numbers


def by_numpy(e: Example) -> Trace:
    """Node by node, the sums written out."""
    activity = reference.forward(e.network, np.array([e.x]))
    cost, grad_output = reference.cost(activity.a[-1], np.array([e.y]), "mse")
    gradients = reference.backward(e.network, activity, grad_output)
    updated = reference.update(e.network, gradients, e.epsilon)
    return Trace(
        [z[0] for z in activity.z[1:]],
        [a[0] for a in activity.a[1:]],
        [delta[0] for delta in gradients.deltas],
        float(cost),
        gradients.weights,
        _filled(gradients.biases),
        list(updated.weights),
        _filled(updated.biases if e.train_biases else e.network.biases),
    )


def by_hand(e: Example) -> Trace:
    """z, a and delta by the tensor formulas, gradients by the Function, the update by ours."""
    model = manualbp.Sequential(*modules(e))
    h, y = sample(e)
    z, a = [], []
    tape: Tape = []
    for linear, f in zip(linears(model), _activations(e), strict=True):
        theta = (linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        needs = Needs(True, (True, linear.bias is not None))
        z.append(LINEAR.forward(h, theta, needs, tape))  # z = h W^T + b
        h = Elementwise(f).forward(z[-1], (), Needs(True), tape)  # a = f(z)
        a.append(h)
    deltas: list[Any] = []
    upstream: Any = 2 * (h - y) / y.numel()  # dC/do of the mean of (o - y)^2
    for f in reversed(list(_activations(e))):
        # delta = dC/da * f'(z) by the written formula, and dC/da = delta W of the layer below
        delta = Elementwise(f).backward(upstream, Needs(True), tape, [], "formula")
        deltas.insert(0, delta)
        upstream = LINEAR.backward(delta, Needs(True, (False, False)), tape, [])
    optimizer = manualbp.GradientDescent(trained(e, model), e.epsilon)
    step = _step(e, model, manualbp.MSELoss(), optimizer)
    return Trace(_rows(z), _rows(a), _rows(deltas), *step)


def by_autograd(e: Example) -> Trace:
    """PyTorch alone; delta is the gradient that autograd leaves at z."""
    model = nn.Sequential(*modules(e))
    h, y = sample(e)
    z, a = [], []
    for linear, activation in zip(list(model)[0::2], list(model)[1::2], strict=True):
        z.append(linear(h))
        z[-1].retain_grad()
        h = activation(z[-1])
        a.append(h)
    nn.functional.mse_loss(h, y).backward()  # type: ignore[no-untyped-call]
    deltas = [z_l.grad for z_l in z]
    optimizer = SGD(trained(e, model), e.epsilon)
    step = _step(e, model, nn.MSELoss(), optimizer)
    return Trace(_rows(z), _rows(a), _rows(deltas), *step)


def modules(e: Example) -> list[nn.Module]:
    """Linear and activation modules that hold the example's numbers."""
    found: list[nn.Module] = []
    for w, b, f in zip(e.network.weights, e.network.biases, _activations(e), strict=True):
        linear = nn.Linear(w.shape[1], w.shape[0], bias=b is not None, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w))
            if b is not None:
                linear.bias.copy_(torch.from_numpy(b))
        found += [linear, to_module(f)]
    return found


def as_numbers(e: Example, model: nn.Sequential) -> reference.Network:
    """The weights and biases of a model of the example, as they are now."""
    layers = [(m.weight, m.bias) for m in linears(model)]
    weights = [w.detach().numpy().copy() for w, _ in layers]
    biases = [None if b is None else b.detach().numpy().copy() for _, b in layers]
    return reference.Network(weights, biases, e.network.activations)


def sample(e: Example) -> tuple[Tensor, Tensor]:
    """x (1, I) and y (1, O)."""
    return torch.tensor([e.x], dtype=torch.float64), torch.tensor([e.y], dtype=torch.float64)


def trained(e: Example, model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the example updates: all, or only the weights."""
    return [p for name, p in model.named_parameters() if e.train_biases or name.endswith("weight")]


def _activations(e: Example) -> list[Any]:
    return [by_name(name) for name in e.network.activations]


def _step(
    e: Example, model: nn.Sequential, loss: nn.Module, optimizer: Optimizer
) -> tuple[float, Numbers, Numbers, Numbers, Numbers]:
    """C, dC/dw, dC/db, and w, b after one update."""
    x, y = sample(e)
    model.zero_grad()
    cost = loss(model(x), y)
    cost.backward()
    layers = linears(model)
    weights, biases = ([getattr(m, name) for m in layers] for name in ("weight", "bias"))
    grad_weights, grad_biases = (
        _filled(None if p is None else p.grad for p in each) for each in (weights, biases)
    )
    optimizer.step()
    return cost.item(), grad_weights, grad_biases, _filled(weights), _filled(biases)


def _rows(values: Any) -> Numbers:
    """The only row of each (1, O)."""
    return [value.detach()[0].numpy() for value in values]


def _filled(values: Any) -> Numbers:
    """Copies as arrays; an empty one for None."""
    return [
        np.empty(0) if v is None else torch.as_tensor(v).detach().numpy().copy() for v in values
    ]
