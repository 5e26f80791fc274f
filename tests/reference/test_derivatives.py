"""Derivatives by the input, node by node: against sympy's, then ours against them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from torch import nn

import manualbp
from manualbp import reference
from manualbp.maths.activations import by_name, to_module
from manualbp.reference import Derived, Network
from manualbp.reference.functions import ACTIVATIONS

Array = np.ndarray[Any, Any]
# Both sides are float64 sums of a few dozen numbers of size 1.
TOLERANCE = 1e-13
SECOND = (None, "laplacian", "diagonal", "hessian")


def sigmoid(z: Any) -> Any:
    return 1 / (1 + sympy.exp(-z))


SMOOTH = {
    "sigmoid": sigmoid,
    "tanh": sympy.tanh,
    "gelu": lambda z: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2,
    "silu": lambda z: z * sigmoid(z),
    "softplus": lambda z: sympy.log(1 + sympy.exp(z)),
    "elu": lambda z: sympy.exp(z) - 1,  # every z below is less than 0
}


def network(name: str, widths: tuple[int, ...], shift: float = 0.0) -> Network:
    """Of random numbers, with f at the end, too. ``shift`` is added to each bias."""
    random = np.random.default_rng(0)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [random.normal(size=shape) for shape in shapes]
    biases: list[Array | None] = [random.normal(size=len(w)) + shift for w in weights]
    return Network(weights, biases, [name] * len(weights))


def cotangents(points: int, outputs: int, lines: int) -> Derived:
    random, shape = np.random.default_rng(1), (points, outputs, lines)
    parts = shape[:2], shape, (*shape, lines)
    return Derived(*(random.normal(size=part) for part in parts))


def _symbols(name: str, layer: int, count: int) -> Any:
    return sympy.symbols(f"{name}{layer}_:{count}")


def by_sympy(f: Any, net: Network, x: Array, g: Derived) -> tuple[Array, Array]:
    """Symbols in, numbers out: a row (u, u_p, u_pq, dC/dx) per point; dC/dw and dC/db of all.

    C = sum_n (g u + sum_p g_p u_p + sum_pq g_pq u_pq).
    """
    inputs = sympy.symbols("x y")
    w = [sympy.Matrix(*v.shape, _symbols("w", i, v.size)) for i, v in enumerate(net.weights)]
    b = [sympy.Matrix(len(v), 1, _symbols("b", i, len(v))) for i, v in enumerate(net.weights)]
    h = sympy.Matrix(inputs)
    for weight, bias in zip(w, b, strict=True):
        h = (weight * h + bias).applyfunc(f)
    u = [h[0], *(h[0].diff(p) for p in inputs), *(h[0].diff(p, q) for p in inputs for q in inputs)]
    factors = sympy.symbols(f"g:{len(u)}")
    cost = sum(factor * part for factor, part in zip(factors, u, strict=True))
    symbols = [*inputs, *(symbol for matrix in (*w, *b) for symbol in matrix)]
    call = sympy.lambdify(
        [*symbols, *factors], [*u, *(cost.diff(s) for s in symbols)], "math", cse=True
    )
    parameters, g_rows = flat(net.weights, net.biases), by_point(*g)
    rows = np.array([call(*x[n], *parameters, *g_rows[n]) for n in range(len(x))])
    return rows[:, : len(u) + 2], rows[:, len(u) + 2 :].sum(0)


def by_point(*parts: Array) -> Array:
    """One row for each point."""
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def flat(weights: Any, biases: Any) -> Array:
    return np.concatenate([part.ravel() for part in (*weights, *biases)])


def far_from_sympy(name: str) -> float:
    """The largest distance, over the size of the number + 1."""
    net = network(name, (2, 2, 2, 1), -9 if name == "elu" else 0)
    x, g = np.random.default_rng(2).normal(size=(3, 2)), cotangents(3, 1, 2)
    climb = reference.derive(net, x)
    slopes = reference.descend(net, climb, g)
    ours = by_point(*climb.a[-1], slopes.input), flat(slopes.weights, slopes.biases)
    pairs = zip(ours, by_sympy(SMOOTH[name], net, x, g), strict=True)
    return max(float((abs(found - s) / (1 + abs(s))).max()) for found, s in pairs)


@pytest.mark.parametrize("name", SMOOTH)
def test_against_sympy(name: str) -> None:
    assert far_from_sympy(name) < TOLERANCE


@pytest.mark.parametrize("field", ["df", "ddf", "dddf"])
def test_sympy_sees_a_wrong_slope(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ACTIVATIONS["tanh"]._replace(**{field: lambda z: 0.5})
    monkeypatch.setitem(ACTIVATIONS, "tanh", wrong)
    assert far_from_sympy("tanh") > 1e-3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_slopes(name: str) -> None:
    """By central differences of step 1e-5: truncation 1e-10, rounding 1e-10 of f(20)."""
    f, h = ACTIVATIONS[name], 1e-5
    for z in (-25.0, -3.1, -1.7, -0.6, -0.02, 0.03, 0.5, 1.9, 4.0, 19.5, 21.0):
        for lower, upper in itertools.pairwise(f):
            slope = (lower(z + h) - lower(z - h)) / (2 * h)
            assert upper(z) == pytest.approx(slope, abs=1e-8)


def test_wrong_lines() -> None:
    net = network("tanh", (3, 2))
    for x, lines in ((np.zeros(3), None), (np.zeros((2, 2)), None), (np.zeros((2, 3)), np.eye(2))):
        with pytest.raises(ValueError, match=r"x and lines must be \(N, 3\), got"):
            reference.derive(net, x, lines)


def as_module(net: Network) -> nn.Sequential:
    children: list[nn.Module] = []
    for w, b, name in zip(net.weights, net.biases, net.activations, strict=True):
        linear = nn.Linear(w.shape[1], len(w), dtype=torch.float64)
        for parameter, value in ((linear.weight, w), (linear.bias, b)):
            parameter.data = torch.from_numpy(value)
        children += [linear, to_module(by_name(name))]
    return nn.Sequential(*children)


def shown(second: str | None, whole: Derived) -> list[Array]:
    """u, du and the second derivatives that are asked for, of all pairs."""
    diagonal = np.diagonal(whole.second, axis1=2, axis2=3)
    kinds = {"laplacian": diagonal.sum(-1), "diagonal": diagonal, "hessian": whole.second}
    return [*whole[:2], *([] if second is None else [kinds[second]])]


def whole(second: str | None, g: Derived) -> tuple[list[Array], Derived]:
    """Cotangents of what is returned, and the same of all pairs."""
    zero, eye = np.zeros(g.second.shape), np.eye(g.first.shape[2])
    kinds = {
        None: (None, zero),
        "laplacian": (g.value + 1, (g.value + 1)[..., None, None] * eye),
        "diagonal": (g.first + 1, (g.first + 1)[..., None] * eye),
        "hessian": (g.second, g.second),
    }
    given, pairs = kinds[second]
    return [*g[:2], *([] if given is None else [given])], g._replace(second=pairs)


@pytest.mark.parametrize("second", SECOND, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_ours_against_the_sums(name: str, second: Any) -> None:
    """Three lines through four inputs' points: u, du, second derivatives and all gradients."""
    net = network(name, (4, 3, 5, 2))
    random = np.random.default_rng(3)
    points, lines = random.normal(size=(3, 4)), random.normal(size=(3, 4))
    given, g = whole(second, cotangents(3, 2, 3))
    climb = reference.derive(net, points, lines)
    slopes = reference.descend(net, climb, g)
    model, x = as_module(net), torch.from_numpy(points).requires_grad_()
    ours = manualbp.derivatives(model, x, second, torch.from_numpy(lines))
    torch.autograd.backward(ours, [torch.from_numpy(np.ascontiguousarray(t)) for t in given])
    for found, expected in zip(ours, shown(second, climb.a[-1]), strict=True):
        close(found.detach(), expected)
    close(x.grad, slopes.input)
    for i, (w, b) in enumerate(zip(slopes.weights, slopes.biases, strict=True)):
        close(model[2 * i].weight.grad, w)
        close(model[2 * i].bias.grad, b)


def close(found: torch.Tensor, expected: Array | None) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
