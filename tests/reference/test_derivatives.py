"""Derivatives by the input, node by node: against sympy's, then ours against them."""

from __future__ import annotations

import functools
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
from manualbp.reference.functions import ACTIVATIONS, Activation

Array = np.ndarray[Any, Any]
# Both sides are float64 sums of a few dozen numbers of size 1.
TOLERANCE = 1e-13
SECOND = (None, "laplacian", "diagonal", "hessian", ((2, 2),), ((0, 1), (1, 1), (1, 0)))


class F3(sympy.Function):
    """f''' of any f."""


class F2(sympy.Function):
    """f'' of any f."""

    def fdiff(self, argindex: int = 1) -> Any:
        return F3(self.args[0])


class F1(sympy.Function):
    """f' of any f."""

    def fdiff(self, argindex: int = 1) -> Any:
        return F2(self.args[0])


class F(sympy.Function):
    """Any f."""

    def fdiff(self, argindex: int = 1) -> Any:
        return F1(self.args[0])


def network(name: str, widths: tuple[int, ...]) -> Network:
    """Of random numbers, with f at the end, too."""
    random = np.random.default_rng(0)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [random.normal(size=shape) for shape in shapes]
    biases: list[Array | None] = [random.normal(size=len(w)) for w in weights]
    return Network(weights, biases, [name] * len(weights))


def cotangents(points: int, outputs: int, lines: int) -> Derived:
    random, shape = np.random.default_rng(1), (points, outputs, lines)
    parts = shape[:2], shape, (*shape, lines)
    return Derived(*(random.normal(size=part) for part in parts))


@functools.cache
def by_sympy(widths: tuple[int, ...]) -> Any:
    """A function of numbers: the inputs x, y, every w and b, and g: u, u_p, u_pq and dC by each.

    C = g u + sum_p g_p u_p + sum_pq g_pq u_pq of one point.
    """
    inputs, h = sympy.symbols("x y"), sympy.Matrix(sympy.symbols("x y"))
    parameters: list[list[Any]] = [[], []]
    for layer, (below, width) in enumerate(itertools.pairwise(widths)):
        w = sympy.Matrix(width, below, sympy.symbols(f"w{layer}_:{width * below}"))
        b = sympy.Matrix(width, 1, sympy.symbols(f"b{layer}_:{width}"))
        h = (w * h + b).applyfunc(F)
        parameters[0] += w
        parameters[1] += b
    u = [h[0], *(h[0].diff(p) for p in inputs), *(h[0].diff(p, q) for p in inputs for q in inputs)]
    factors = sympy.symbols(f"g:{len(u)}")
    cost = sum(factor * part for factor, part in zip(factors, u, strict=True))
    symbols = [*inputs, *parameters[0], *parameters[1]]
    wanted = [*u, *(cost.diff(s) for s in symbols)]
    names = [{"F": _called(0), "F1": _called(1), "F2": _called(2), "F3": _called(3)}, "math"]
    return sympy.lambdify([*symbols, *factors], wanted, names, cse=True)


CALLED: list[Activation] = []  # at its end the f of the network


def _called(order: int) -> Any:
    return lambda z: CALLED[-1][order](z)


def by_point(*parts: Array) -> Array:
    """One row for each point."""
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def flat(weights: Any, biases: Any) -> Array:
    return np.concatenate([part.ravel() for part in (*weights, *biases)])


def far_from_sympy(name: str, f: Activation) -> float:
    """The largest distance, over the size of the number + 1; f: of sympy's network."""
    net = network(name, (2, 2, 2, 1))
    x, g = np.random.default_rng(2).normal(size=(3, 2)), cotangents(3, 1, 2)
    climb = reference.derive(net, x)
    slopes = reference.descend(net, climb, g)
    CALLED[:] = [f]
    parameters, g_n = flat(net.weights, net.biases), by_point(*g)
    rows = np.array([by_sympy((2, 2, 2, 1))(*x[n], *parameters, *g_n[n]) for n in range(len(x))])
    values, sums = rows[:, :9], rows[:, 9:].sum(0)
    ours = by_point(*climb.a[-1], slopes.input), flat(slopes.weights, slopes.biases)
    pairs = zip(ours, (values, sums), strict=True)
    return max(float((abs(found - s) / (1 + abs(s))).max()) for found, s in pairs)


@pytest.mark.slow
def test_against_sympy() -> None:
    """A network of 2, 2, 2 and 1 nodes; symbols for any f, so that one test has them all."""
    for name, f in ACTIVATIONS.items():
        assert far_from_sympy(name, f) < TOLERANCE
    for field in ("f", "df", "ddf", "dddf"):  # planted, on sympy's side
        wrong = ACTIVATIONS["tanh"]._replace(**{field: lambda z: 0.5})
        assert far_from_sympy("tanh", wrong) > 1e-3


z = sympy.Symbol("z")
s = 1 / (1 + sympy.exp(-z))
GELU_TANH = sympy.tanh(sympy.sqrt(2 / sympy.pi) * (z + 0.044715 * z**3))
SMOOTH = {
    "sigmoid": s, "tanh": sympy.tanh(z), "silu": z * s, "softplus": sympy.log(1 + sympy.exp(z)),
    "gelu": z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2, "gelu_tanh": z * (1 + GELU_TANH) / 2,
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_slopes_against_sympy(name: str) -> None:
    """With 30 digits there; 1e-13: a few roundings of numbers up to z^3."""
    for order, slope in enumerate(ACTIVATIONS[name]):
        expected = SMOOTH[name].diff(z, order)
        for point in (-6.0, -2.2, -0.7, 0.0, 0.1, 1.5, 3.0):
            assert slope(point) == pytest.approx(float(expected.evalf(30, {z: point})), abs=1e-13)


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


def shown(second: Any, whole: Derived) -> list[Array]:
    """u, du and the second derivatives that are asked for, of all pairs."""
    if isinstance(second, tuple):
        return [*whole[:2], np.stack([whole.second[..., p, q] for p, q in second], -1)]
    diagonal = np.diagonal(whole.second, axis1=2, axis2=3)
    kinds = {"laplacian": diagonal.sum(-1), "diagonal": diagonal, "hessian": whole.second}
    return [*whole[:2], *([] if second is None else [kinds[second]])]


def whole(second: Any, g: Derived) -> tuple[list[Array], Derived]:
    """Cotangents of what is returned, and the same of all pairs."""
    zero, eye = np.zeros(g.second.shape), np.eye(g.first.shape[2])
    if isinstance(second, tuple):
        given = np.stack([g.second[..., p, q] * (i + 1) for i, (p, q) in enumerate(second)], -1)
        for i, (p, q) in enumerate(second):
            zero[..., p, q] += given[..., i]
        return [*g[:2], given], g._replace(second=zero)
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
