"""JAX and scikit-learn take the same step, in the dtype and with the threads of the others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from comparisons.speed.arms import peers
from comparisons.speed.arms.arm import AUTOGRAD, JAX, SKLEARN, Problem
from comparisons.speed.arms.pytorch import eager_arms
from comparisons.speed.workloads import INPUT_GRADIENT, LAPLACIAN, TRAINING
from tests.comparisons.speed.arms.equal_gradients import CPU, differing, of


@pytest.mark.parametrize(
    ("step", "f"),
    [(TRAINING, "relu"), (TRAINING, "tanh"), (INPUT_GRADIENT, "softplus"), (LAPLACIAN, "silu")],
)
def test_jax(step: str, f: str) -> None:
    """fp64, sums over 20 rows in another order: relative 1e-10."""
    pytest.importorskip("jax", reason="JAX is not installed: requirements/peers.txt")
    given = of(step, (2, 6, 5, 1), 20, f)
    found, _ = peers.available(CPU)
    arms = {**eager_arms(given), JAX: found[JAX](given)}
    assert differing(arms, 1e-10) == []
    assert arms[JAX].peak() > 0
    arms[JAX].step()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax_computes_in_the_rows_dtype(dtype: str) -> None:
    """Its gradients are off by as much as that dtype rounds: a twentieth of eps, or 20 of them."""
    pytest.importorskip("jax", reason="JAX is not installed: requirements/peers.txt")
    found, _ = peers.available(CPU)
    given = of(TRAINING, (4, 32, 1), 64, "tanh", dtype)
    gradients = found[JAX](given).computed().gradients
    wide = Problem(given.workload, given.model.double(), given.x.double(), given.y.double())
    expected = eager_arms(wide)[AUTOGRAD].computed().gradients
    apart = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(gradients, expected, strict=True)
    )
    assert 0.05 < apart / torch.finfo(getattr(torch, dtype)).eps < 20


@pytest.mark.slow
def test_jax_takes_as_many_threads() -> None:
    """One, when PyTorch has one: no more processor time than time."""
    pytest.importorskip("jax", reason="JAX is not installed: requirements/peers.txt")
    program = (
        "import time, torch; torch.set_num_threads(1)\n"
        "from tests.comparisons.speed.arms.test_peers import *\n"
        "arm = peers.available(CPU)[0][JAX](of(TRAINING, (256, 512, 512, 1), 1024, 'relu'))\n"
        "arm.step(); wall, own = time.perf_counter(), time.process_time()\n"
        "[arm.step() for _ in range(5)]\n"
        "print((time.process_time() - own) / (time.perf_counter() - wall))"
    )
    kept = {name: value for name, value in os.environ.items() if name != "NPROC"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept
    )
    assert float(done.stdout) < 1.2


@pytest.mark.parametrize("f", ["relu", "tanh"])
def test_sklearn(f: str) -> None:
    """fp64; its gradients are (W - W_new) / 2^20, which leaves all of them."""
    given = of(TRAINING, (4, 8, 6, 3), 50, f)
    found, _ = peers.available(CPU)
    arms = {**eager_arms(given), SKLEARN: found[SKLEARN](given)}
    expected = [g.abs().max() for g in arms[AUTOGRAD].computed().gradients]
    assert min(expected) > 1e-4
    assert differing(arms, 1e-10) == []
    assert arms[SKLEARN].peak() > 0


@pytest.mark.parametrize(
    ("step", "f", "dtype"),
    [(LAPLACIAN, "tanh", "float32"), (TRAINING, "silu", "float32"), (TRAINING, "relu", "bfloat16")],
)
def test_sklearn_is_absent_where_it_has_no_such_step(step: str, f: str, dtype: str) -> None:
    found, _ = peers.available(CPU)
    assert found[SKLEARN](of(step, (4, 8, 1), 16, f, dtype)) is None


def test_absent_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    found, notes = peers.available(CPU)
    assert found == {}
    assert notes == [
        "no JAX: install it with: pip install -r requirements/peers.txt",
        "no scikit-learn: install it with: pip install -r requirements/comparisons.txt",
    ]


@pytest.mark.parametrize(("dtype", "products"), [("tf32", 5), ("float32", 0)])
def test_jax_rounds_to_tf32_in_its_rows_alone(
    dtype: str, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HIGH is TF32 on a GPU; the two products of forward, and three of backward."""
    jax = pytest.importorskip("jax", reason="JAX is not installed: requirements/peers.txt")
    traced = []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f: traced.append(f) or jit(f))
    given = of(TRAINING, (4, 8, 1), 16, "tanh", dtype)
    arm = peers.available(CPU)[0][JAX](given)
    assert differing({**eager_arms(given), JAX: arm}, 1e-4) == []
    thetas = [(jax.numpy.ones((o, i)), jax.numpy.ones(o)) for i, o in ((4, 8), (8, 1))]
    program = jax.make_jaxpr(traced[0])(thetas, jax.numpy.array(given.x), jax.numpy.array(given.y))
    assert str(program).count("(Precision.HIGH, Precision.HIGH)") == products


def test_peers_without_a_gpu_are_named() -> None:
    _, notes = peers.available(torch.device("cuda"))
    assert "no scikit-learn: it has no GPU" in notes
