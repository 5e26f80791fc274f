"""Each equation is that of its solution: put into the residual, the solution leaves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from comparisons.physics import problems
from comparisons.physics.pde import PDE
from comparisons.physics.problems import PROBLEMS, cole_hopf
from comparisons.physics.ways import AUTOGRAD, MANUAL

ARMS = (AUTOGRAD, MANUAL)


class Exact(nn.Module):
    """The solution as a network would give it."""

    def __init__(self, problem: PDE) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor) -> Tensor:
        return self.problem.exact(x)


def inside(problem: PDE, count: int = 200) -> Tensor:
    """Points at random, away from t = 0, where Burgers' quadrature has no derivative by t."""
    share = 0.02 + 0.96 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0)).double()
    low, high = torch.tensor(problem.low), torch.tensor(problem.high)
    return low + (high - low) * share


def largest_residual(problem: PDE, arm: str) -> float:
    x = inside(problem)
    residual = problem.residual(x, *problem.ways.of(arm)(Exact(problem), x))
    return float(residual.detach().abs().max())


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_solution_leaves_no_residual(name: str, arm: str) -> None:
    """float64, 1e-11: what was seen is below 1e-12, Burgers' quadrature the largest."""
    assert largest_residual(PROBLEMS[name], arm) < 1e-11


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("poisson", lambda x, u, lap: problems.poisson(x, u, -lap)),
        ("heat", lambda x, u, u_x, u_t, u_xx: u_t - 0.11 * u_xx),
        ("burgers", lambda x, u, u_x, u_t, u_xx: problems.burgers(x, u, u_t, u_x, u_xx)),
        ("helmholtz", lambda x, u, lap: problems.helmholtz(x, 0 * u, lap)),
        ("eikonal", lambda x, u, du: problems.eikonal(x, u, du[:, :1])),
    ],
)
def test_a_wrong_equation_is_seen(name: str, wrong: object, arm: str) -> None:
    assert largest_residual(replace(PROBLEMS[name], residual=wrong), arm) > 1e-3


@pytest.mark.parametrize("name", ["poisson", "heat", "burgers", "helmholtz"])
def test_what_is_given_on_the_edges(name: str) -> None:
    """Zero at the walls, and at t = 0 what the table of problems says; float32 rounds to 6e-8."""
    problem = PROBLEMS[name]
    _, edge, given = problem.sample(torch.Generator().manual_seed(0))
    start = {"heat": lambda x: torch.sin(torch.pi * x) + torch.sin(3 * torch.pi * x) / 2,
             "burgers": lambda x: -torch.sin(torch.pi * x)}.get(name, torch.zeros_like)  # fmt: skip
    at_start = (edge[:, 1:] == 0) & (name in ("heat", "burgers"))
    wanted = torch.where(at_start, start(edge[:, :1]), torch.zeros_like(given))
    torch.testing.assert_close(given, wanted, rtol=0, atol=2e-6)
    for axis, at in problem.edges:
        assert (edge[:, axis] == at).sum() >= problem.edge // len(problem.edges)


def test_points_lie_inside() -> None:
    for problem in PROBLEMS.values():
        x = problem.sample(torch.Generator().manual_seed(1)).inside
        low, high = torch.tensor(problem.low), torch.tensor(problem.high)
        assert x.shape == (problem.inside, 2) and ((low <= x) & (x <= high)).all()
        assert ((x.amax(0) - x.amin(0)) > 0.9 * (high - low)).all()


def test_the_shape_of_the_eikonal_equation() -> None:
    """Points on it are at distance 0, and 0.1 along the normal at 0.1; float32 rounds to 1e-7."""
    problem = PROBLEMS["eikonal"]
    _, edge, normal = problem.sample(torch.Generator().manual_seed(0))
    assert len(edge) == problem.edge
    for far in (0.0, 0.1):
        found = problem.exact(edge + far * normal)
        torch.testing.assert_close(found, torch.full_like(found, far), rtol=0, atol=1e-6)


def test_burgers_quadrature() -> None:
    """Against 5,001 equally spaced nodes, whose sum converges exponentially, too."""
    x = inside(PROBLEMS["burgers"], 20)
    z = torch.linspace(-9, 9, 5001, dtype=torch.float64)
    y = x[:, :1] - 2 * torch.sqrt(problems.VISCOSITY * x[:, 1:]) * z
    p = torch.exp(-torch.cos(torch.pi * y) / (2 * torch.pi * problems.VISCOSITY) - z**2)
    wanted = -(torch.sin(torch.pi * y) * p).sum(1, keepdim=True) / p.sum(1, keepdim=True)
    torch.testing.assert_close(cole_hopf(x), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_arms_have_the_same_loss_and_gradients(name: str) -> None:
    """float32, relative 1e-4; what was seen is 1e-7."""
    problem = PROBLEMS[name]
    points = problem.sample(torch.Generator().manual_seed(0))
    theirs, ours = (problem.learners(0, 10)[arm] for arm in ARMS)
    torch.testing.assert_close(ours.gradients(points), theirs.gradients(points),
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    torch.testing.assert_close(ours.loss(points), theirs.loss(points), rtol=1e-5, atol=0)
