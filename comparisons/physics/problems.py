"""Poisson's, the heat, Burgers', Helmholtz' and an eikonal equation, each with its solution."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from comparisons.physics.learner import Points
from comparisons.physics.pde import PDE
from comparisons.physics.ways import GRADIENT, IN_TIME, LAPLACIAN, Way

PI = math.pi
CONDUCTIVITY = 0.1
VISCOSITY = 0.1 / PI
CIRCLES = ((-0.45, 0.0, 0.35), (0.5, 0.1, 0.25))  # x and y of the centre, radius


def bumps(x: Tensor) -> Tensor:
    """sin(pi x) sin(pi y)."""
    return torch.sin(PI * x).prod(1, keepdim=True)


def poisson(x: Tensor, u: Tensor, laplacian: Tensor) -> Tensor:
    """u_xx + u_yy + 2 pi^2 sin(pi x) sin(pi y)."""
    return laplacian + 2 * PI**2 * bumps(x)


def helmholtz(x: Tensor, u: Tensor, laplacian: Tensor) -> Tensor:
    """u_xx + u_yy + u - (1 - 2 pi^2) sin(pi x) sin(pi y)."""
    return laplacian + u - (1 - 2 * PI**2) * bumps(x)


def heat(x: Tensor, u: Tensor, u_x: Tensor, u_t: Tensor, u_xx: Tensor) -> Tensor:
    """u_t - kappa u_xx."""
    return u_t - CONDUCTIVITY * u_xx


def cooled(x: Tensor) -> Tensor:
    """sum_n c_n exp(-kappa (n pi)^2 t) sin(n pi x) for c_1 = 1, c_3 = 1/2."""
    place, time = x[:, :1], x[:, 1:]
    return sum(
        (c * torch.exp(-CONDUCTIVITY * (n * PI) ** 2 * time) * torch.sin(n * PI * place)
         for n, c in ((1, 1.0), (3, 0.5))),
        torch.zeros_like(place),
    )  # fmt: skip


def burgers(x: Tensor, u: Tensor, u_x: Tensor, u_t: Tensor, u_xx: Tensor) -> Tensor:
    """u_t + u u_x - nu u_xx."""
    return u_t + u * u_x - VISCOSITY * u_xx


@cache
def nodes() -> tuple[Tensor, Tensor]:
    """z_i, w_i of Gauss and Hermite: integral g(z) exp(-z^2) dz = sum_i w_i g(z_i)."""
    z, w = np.polynomial.hermite.hermgauss(100)
    return torch.from_numpy(z), torch.from_numpy(w)


def cole_hopf(x: Tensor) -> Tensor:
    """Burgers' u, of which u_0 = -sin(pi x); x is float64.

        u = -int sin(pi y) p(y) exp(-z^2) dz / int p(y) exp(-z^2) dz
        y = x - 2 sqrt(nu t) z,  p(y) = exp(-cos(pi y) / (2 pi nu))

    The integrals by Gauss and Hermite's sum. Source: Cole 1951, Hopf 1950; in this form
    Basdevant et al., *Spectral and finite difference solutions of the Burgers equation*, 1986.
    """
    z, w = nodes()
    y = x[:, :1] - 2 * torch.sqrt(VISCOSITY * x[:, 1:]) * z
    p = w * torch.exp(-torch.cos(PI * y) / (2 * PI * VISCOSITY))
    return -(torch.sin(PI * y) * p).sum(1, keepdim=True) / p.sum(1, keepdim=True)


def eikonal(x: Tensor, u: Tensor, du: Tensor) -> Tensor:
    """|du| - 1."""
    return torch.linalg.vector_norm(du, dim=1, keepdim=True) - 1


def distance(x: Tensor) -> Tensor:
    """min over the circles of |x - c| - r, which is exact: they lie outside each other."""
    circles = x.new_tensor(CIRCLES)
    far = torch.linalg.vector_norm(x[:, None] - circles[:, :2], dim=2) - circles[:, 2]
    return far.amin(1, keepdim=True)


class Eikonal(PDE):
    """A signed distance, learned from points of a shape and the normals there.

        C = mean (|du| - 1)^2 + weight * mean_m (u(x_m)^2 + |du(x_m) - normal_m|^2)

    Source: Gropp et al., *Implicit Geometric Regularization for Learning Shapes*, 2020.
    """

    def sample(self, generator: torch.Generator) -> Points:
        """The second are points on the circles, equally many on each; given are their normals."""
        circles = torch.tensor(CIRCLES).repeat_interleave(self.edge // len(CIRCLES), 0)
        angle = 2 * PI * torch.rand(len(circles), 1, generator=generator)
        normal = torch.cat([torch.cos(angle), torch.sin(angle)], 1)
        edge = circles[:, :2] + circles[:, 2:] * normal
        return Points(self._inside(self.inside, generator), edge, normal)

    def loss(self, way: Way, model: nn.Module, points: Points) -> Tensor:
        """C, with the derivatives in this way, of all points in one call."""
        x = torch.cat([points.inside, points.edge])
        u, du = way(model, x)
        on_edge = slice(len(points.inside), None)
        miss = u[on_edge].square().mean() + (du[on_edge] - points.given).square().sum(1).mean()
        return self.residual(x, u, du).square().mean() + self.weight * miss


WALLS = ((0, 0.0), (0, 1.0))  # x = 0 and x = 1
PROBLEMS = {
    problem.name: problem
    for problem in (
        PDE(
            "poisson", "u_xx + u_yy = -2 pi^2 sin(pi x) sin(pi y), u = 0 on the edges",
            "sin(pi x) sin(pi y)", ("x", "y"), (0, 0), (1, 1), (*WALLS, (1, 0.0), (1, 1.0)),
            LAPLACIAN, poisson, bumps,
        ),
        PDE(
            "heat", f"u_t = {CONDUCTIVITY} u_xx, u = 0 at x = 0 and 1, "
            "u = sin(pi x) + sin(3 pi x) / 2 at t = 0",
            "its Fourier series, which has two terms", ("x", "t"), (0, 0), (1, 1),
            (*WALLS, (1, 0.0)), IN_TIME, heat, cooled, weight=10,
        ),
        PDE(
            "burgers", "u_t + u u_x = (0.1 / pi) u_xx, u = 0 at x = -1 and 1, "
            "u = -sin(pi x) at t = 0",
            "Cole and Hopf's integrals (Basdevant et al. 1986), by Gauss-Hermite quadrature",
            ("x", "t"), (-1, 0), (1, 1), ((0, -1.0), (0, 1.0), (1, 0.0)), IN_TIME, burgers,
            cole_hopf, weight=10,
        ),
        PDE(
            "helmholtz", "u_xx + u_yy + u = "
            "(1 - 2 pi^2) sin(pi x) sin(pi y), u = 0 on the edges",
            "sin(pi x) sin(pi y)", ("x", "y"), (-1, -1), (1, 1),
            ((0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0)), LAPLACIAN, helmholtz, bumps,
        ),
        Eikonal(
            "eikonal", "|du| = 1, u = 0 and du = the normal on two circles",
            "the signed distance to the circles", ("x", "y"), (-1, -1), (1, 1), (), GRADIENT,
            eikonal, distance, weight=1,
        ),
    )
}  # fmt: skip
