"""A picture of each problem: its solution, that of the network by hand, and both arms' errors."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from comparisons.physics.loop import Trained
from comparisons.physics.pde import GRID, PDE
from comparisons.physics.ways import AUTOGRAD, MANUAL


def picture(result: Trained) -> Figure:
    """Of a problem in the plane as maps, on a line as curves."""
    problem = result.problem
    exact = problem.exact(problem.grid())
    errors = {arm: (u - exact).abs() for arm, u in result.solutions.items()}
    if isinstance(problem, PDE):
        figure = _maps(problem, exact, result.solutions[MANUAL], errors)
    else:
        figure = _curves(problem.grid(), exact, result.solutions[MANUAL], errors)
    figure.suptitle(f"{problem.name}: {problem.equation}", fontsize=9)
    return figure


def _maps(problem: PDE, exact: Tensor, u: Tensor, errors: dict[str, Tensor]) -> Figure:
    solution = (float(exact.min()), float(exact.max()))
    error = (0.0, max(float(e.max()) for e in errors.values()))
    shown = [
        ("exact", exact, solution, "RdBu_r"), (f"u, {MANUAL}", u, solution, "RdBu_r"),
        *((f"|error|, {arm}", errors[arm], error, "viridis") for arm in (AUTOGRAD, MANUAL)),
    ]  # fmt: skip
    figure = Figure(figsize=(12, 3), layout="constrained")
    corners = [*zip(problem.low, problem.high, strict=True)]
    for axes, (title, values, (low, high), colours) in zip(
        figure.subplots(1, 4), shown, strict=True
    ):
        image = axes.imshow(
            _pixels(values), extent=(*corners[0], *corners[1]), origin="lower", aspect="equal",
            vmin=low, vmax=high, cmap=colours,
        )  # fmt: skip
        figure.colorbar(image, ax=axes)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(problem.axes[0])
        axes.set_ylabel(problem.axes[1])
    return figure


def _pixels(values: Tensor) -> NDArray[np.float64]:
    """A row of the picture for each value of the second axis."""
    return values.reshape(GRID, GRID).t().numpy()


def _curves(x: Tensor, exact: Tensor, u: Tensor, errors: dict[str, Tensor]) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, exact, label="exact", color="#555555", linewidth=3.5)
    left.plot(x, u, label=f"u, {MANUAL}", color="#1f77b4")
    for arm, wide, colour in ((AUTOGRAD, 3.5, "#555555"), (MANUAL, 1.4, "#1f77b4")):
        right.plot(x, errors[arm], label=f"|error|, {arm}", color=colour, linewidth=wide)
    for axes in (left, right):
        axes.set_xlabel("x")
        axes.legend(frameon=False, fontsize=8)
    return figure
