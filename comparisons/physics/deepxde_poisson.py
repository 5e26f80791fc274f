"""DeepXDE's own example, Poisson's equation on a line, trained by DeepXDE in both arms.

    u_xx = -pi^2 sin(pi x) on (-1, 1), u(-1) = u(1) = 0,  u = sin(pi x)

Points, network, rate and loss are those of its examples/pinn_forward/Poisson_Dirichlet_1d.py; only
here the rate falls to 0, since at a fixed one the last error is an accident of Adam's spikes. One
arm's residual takes dde.grad.hessian, the other's manualbp.derivatives: nothing else differs.
DeepXDE is in requirements/clients.txt.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manualbp
from comparisons.physics.learner import by_glorot
from comparisons.physics.ways import AUTOGRAD, MANUAL

NAME = "deepxde"
MISSING = (
    f"{NAME}: left out, it needs DeepXDE; install it with: pip install -r requirements/clients.txt"
)


def is_installed() -> bool:
    """Whether there is a DeepXDE; it is not imported."""
    return importlib.util.find_spec("deepxde") is not None


def imported() -> Any:
    """DeepXDE over PyTorch, without the words that it prints."""
    os.environ["DDE_BACKEND"] = "pytorch"  # read at import, which else writes a file at home
    with contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module("deepxde")


class DeepXDELearner:
    """An arm: DeepXDE's Model, which trains for many steps in a call."""

    def __init__(self, layers: nn.Sequential, data: Any, steps: int, steps_per_call: int) -> None:
        dde = imported()

        class Net(dde.nn.NN):  # type: ignore[name-defined,misc]
            """DeepXDE's base class around the layers."""

            def __init__(self) -> None:
                super().__init__()
                self.layers = layers

            def forward(self, x: Tensor) -> Tensor:
                return self.layers(x)

        self.model, self.data, self.steps_per_call = layers, data, steps_per_call
        self._trainer = dde.Model(data, Net())
        self._trainer.compile("adam", lr=1e-3, decay=("cosine", steps, 0), verbose=0)

    def gradients(self, points: None) -> list[Tensor]:
        """dC/dw of every parameter; nothing is changed."""
        _, losses = self._trainer.outputs_losses_train(*self.data.train_next_batch())
        return list(torch.autograd.grad(losses.sum(), list(self.model.parameters())))

    def train(self, points: None) -> float:
        """Some steps; the loss after them."""
        count = self.steps_per_call
        history, _ = self._trainer.train(iterations=count, display_every=count, verbose=0)
        return float(np.sum(history.loss_train[-1]))

    def solution(self, x: Tensor) -> Tensor:
        """u at x, in float64."""
        with torch.no_grad():
            return self.model(x.float()).double()


class DeepXDEPoisson:
    """The example, with what a PDE has."""

    name = NAME
    equation = "DeepXDE's example: u_xx = -pi^2 sin(pi x), u = 0 at x = -1 and 1"
    solution = "sin(pi x)"
    axes = ("x",)
    steps, steps_per_call = 3000, 50

    def learners(self, seed: int, steps: int) -> dict[str, DeepXDELearner]:
        """Both arms by name, with the same weights and points."""
        torch.manual_seed(seed)
        model = by_glorot((1, 50, 50, 50, 1))
        twin = copy.deepcopy(model)
        dde = imported()

        def by_autograd(x: Tensor, u: Tensor) -> Tensor:
            return -dde.grad.hessian(u, x) - torch.pi**2 * torch.sin(torch.pi * x)

        def by_hand(x: Tensor, u: Tensor) -> Tensor:
            _, _, u_xx = manualbp.derivatives(twin, x, "laplacian")
            return -u_xx - torch.pi**2 * torch.sin(torch.pi * x)

        count = min(self.steps_per_call, steps)
        steps = -(-steps // count) * count
        return {
            AUTOGRAD: DeepXDELearner(model, self._data(dde, by_autograd), steps, count),
            MANUAL: DeepXDELearner(twin, self._data(dde, by_hand), steps, count),
        }

    def sample(self, generator: torch.Generator) -> None:
        """DeepXDE has its own points: 16 inside and both ends, the same in every step."""

    def grid(self) -> Tensor:
        """(401, 1), float64."""
        return torch.linspace(-1, 1, 401, dtype=torch.float64)[:, None]

    def exact(self, x: Tensor) -> Tensor:
        """sin(pi x)."""
        return torch.sin(torch.pi * x)

    def _data(self, dde: Any, residual: Callable[[Tensor, Tensor], Tensor]) -> Any:
        line = dde.geometry.Interval(-1, 1)
        ends = dde.icbc.DirichletBC(line, lambda x: 0, lambda x, on_boundary: on_boundary)
        return dde.data.PDE(line, residual, ends, num_domain=16, num_boundary=2)
