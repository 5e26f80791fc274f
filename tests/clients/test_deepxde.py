"""DeepXDE: a physics-informed network for -u'' = pi^2 sin(pi x), u(-1) = u(1) = 0, in float64.

Also with manualbp.derivatives in its residual: the program of docs/derivatives.md, and
``comparisons physics``, both in float32.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manualbp
from comparisons.cli import main

os.environ["DDE_BACKEND"] = "pytorch"  # read at import, which else writes a file at home
import deepxde as dde

pytestmark = pytest.mark.clients

STEPS = 200


class Net(dde.nn.NN):
    """DeepXDE's own base class around three layers."""

    def __init__(self, kind: type[nn.Sequential]) -> None:
        super().__init__()
        self.layers = kind(
            nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


def residual(x: Tensor, u: Tensor) -> Tensor:
    """u'' + pi^2 sin(pi x)."""
    return dde.grad.hessian(u, x) + torch.pi**2 * torch.sin(torch.pi * x)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """DeepXDE's precision, and with it torch's default one."""
    dde.config.set_default_float("float64")
    yield
    dde.config.set_default_float("float32")


def trained(by_hand: bool) -> dict[str, Tensor]:
    """Both losses at every step, the weights at the end."""
    dde.config.set_random_seed(0)
    line = dde.geometry.Interval(-1, 1)
    ends = dde.icbc.DirichletBC(line, lambda x: 0, lambda x, on_boundary: on_boundary)
    data = dde.data.PDE(line, residual, ends, num_domain=32, num_boundary=2)
    net = Net(manualbp.Sequential if by_hand else nn.Sequential)
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, verbose=0)
    history, _ = model.train(iterations=STEPS, display_every=1, verbose=0)
    return {"losses": torch.tensor(np.array(history.loss_train)), **net.state_dict()}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_same_solution(calls: Counter[str]) -> None:
    """fp64, relative 1e-10: the loss holds u'', and second derivatives agree to some ulp of 1e-16.

    Adam divides a gradient by its own size, so a weight of size 1 can be off by 1e-3 (the rate) of
    that after a step, and later steps carry it on. A fault shows from 1e-6 on.
    """
    theirs = trained(by_hand=False)
    assert not calls
    ours = trained(by_hand=True)
    assert calls["Chain"] >= 2 * STEPS  # for u', and for the weights
    assert_close(ours, theirs)
    assert ours["losses"][-1].sum() < ours["losses"][0].sum() / 2


@pytest.fixture
def single(double: None) -> None:
    """DeepXDE's default, after ``double``."""
    dde.config.set_default_float("float32")


@pytest.mark.usefixtures("single")
def test_the_program_of_the_page() -> None:
    """Its steps reach a relative L2 error below 1e-3; what was seen is 1e-4."""
    page = (Path(__file__).parents[2] / "docs" / "derivatives.md").read_text()
    (program,) = re.findall(r"```python\n# poisson.py\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {"__name__": "poisson"}
    exec(compile(program, "<page>", "exec"), space)
    assert space["history"].metrics_test[-1][0] < 1e-3


@pytest.mark.usefixtures("single")
def test_beside_dde_grad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "300", "--log-dir", str(tmp_path), "--run-name", "mine"]
    assert main(["physics", "--problem", "deepxde", *options]) == 0
    assert "the same error on 1 problem" in capsys.readouterr().out
    assert (tmp_path / "mine" / "deepxde.png").is_file()


@pytest.mark.usefixtures("planted")
def test_planted_fault_is_caught() -> None:
    with pytest.raises(AssertionError):
        assert_close(trained(by_hand=True), trained(by_hand=False))
