"""The arms of derivatives by the input take the same step, whatever way derivatives come in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from comparisons import machine
from comparisons.counterparts import in_python
from comparisons.speed.arms import agreement, costs, derivatives, peers
from comparisons.speed.arms.arm import (
    AUTOGRAD,
    COMPILE_LOSS,
    DERIVATIVES,
    DERIVATIVES_PYTHON,
    JAX,
    JAX_JET,
    JET,
    TORCH_FUNC,
    Arm,
)
from comparisons.speed.arms.available import AvailableArms
from comparisons.speed.workloads import DIRECTIONS, INPUT_GRADIENT, LAPLACIAN, TRAINING, Workload
from manualbp.fast import native
from tests.comparisons.speed.arms.equal_gradients import CPU, differing, of

STEPS = (INPUT_GRADIENT, LAPLACIAN, DIRECTIONS)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_eager_arms(step: str, outputs: int) -> None:
    """fp64, sums over 20 points and 8 lines in another order: relative 1e-10."""
    given = of(step, (3, 8, 6, outputs), 20, "silu")
    found = derivatives.eager_arms(given)
    python = [DERIVATIVES_PYTHON] if native.library() else []
    assert list(found) == [AUTOGRAD, DERIVATIVES, *python, TORCH_FUNC]
    assert differing(found, 1e-10) == [] and agreement.differing(given, found) == {}
    assert all((arm.peak() or 0) > 0 for arm in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("f", ["tanh", "silu", "softplus", "gelu"])
@pytest.mark.parametrize("step", STEPS)
def test_jax(step: str, f: str) -> None:
    """fp64: relative 1e-9, since jet's own formulas round more. Its jet has no softplus."""
    pytest.importorskip("jax", reason="JAX is not installed: requirements/peers.txt")
    given = of(step, (3, 6, 5, 2), 20, f)
    arms, (found, _) = derivatives.eager_arms(given), peers.available(CPU)
    arms[JAX] = found[JAX](given)
    if (jet := found[JAX_JET](given)) and f != "softplus":
        arms[JAX_JET] = jet
    assert (JAX_JET in arms) is (step != INPUT_GRADIENT and f != "softplus")
    assert differing(arms, 1e-9) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_compiled(step: str, outputs: int) -> None:
    """fp64, relative 1e-10."""
    if reason := machine.no_compiler(CPU):
        pytest.skip(reason)
    given = of(step, (3, 8, 6, outputs), 20, "softplus")
    arms = derivatives.eager_arms(given) | {COMPILE_LOSS: derivatives.compiled_arm(given)}
    assert differing(arms, 1e-10) == []


def written_jet(f: Callable[[Tensor], Tensor], mock: Any, collapsed: bool = False) -> Any:
    """jet-for-pytorch's ``jet`` to order 2: of x + t x_1 + t^2 x_2 / 2, by forward mode."""

    def single(x: Tensor, x_1: Tensor, x_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def path(t: Tensor) -> Tensor:
            return f(x + t * x_1 + t**2 / 2 * x_2)

        zero, one = x.new_zeros(()), x.new_ones(())
        slope = lambda t: jvp(path, (t,), (one,))[1]  # noqa: E731
        return path(zero), slope(zero), jvp(slope, (zero,), (one,))[1]

    def of_jet(jet: tuple[Tensor, Tensor, Tensor]) -> Any:
        if not collapsed:
            return single(*jet)
        u, slopes, curved = vmap(single, (None, 0, None))(*jet)
        return u[0], slopes, curved.sum(0)  # jet[2] is 0 here

    assert [tuple(each.shape) for each in mock] == [(20, 3)]
    return of_jet


@pytest.mark.parametrize("step", [LAPLACIAN, DIRECTIONS])
def test_jet_for_pytorch(step: str) -> None:
    """Its calls and its shapes, over a jet written out here; and the package where it is there."""
    given = of(step, (3, 8, 6, 2), 20, "tanh")
    found, notes = peers.available(CPU, by_input=True)
    arms = derivatives.eager_arms(given)
    arms["written out"] = derivatives.jet_arm(SimpleNamespace(jet=written_jet), given)
    if JET in found:
        arms[JET] = found[JET](given)
    assert JET in found or any(note.startswith(f"no {JET}: ") for note in notes)
    assert differing(arms, 1e-10) == []
    first = of(INPUT_GRADIENT, (3, 8, 2), 20, "tanh")
    assert derivatives.jet_arm(SimpleNamespace(jet=written_jet), first) is None


WRONG: dict[str, costs.Way] = {
    "du scaled": lambda *a: derivatives.by_hand(*a) * 1.0001,
    "a line forgotten": lambda model, x, second, lines: derivatives.by_hand(
        model, x, second, None if lines is None else torch.cat([lines[:-1], lines[:1]])
    ) * (1 if second == "diagonal" else 1.0001),
    "a point forgotten": lambda *a: derivatives.by_hand(*a) * (a[1] != a[1][7]).any(1).view(
        -1, *[1] * (2 if a[2] != "laplacian" else 1)),
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", WRONG)
def test_a_planted_wrong_way_is_named(fault: str, step: str) -> None:
    given = of(step, (3, 16, 16, 2), 200, "tanh", "float32")
    arms = derivatives.eager_arms(given)
    cost = derivatives.cost_of(given, WRONG[fault])
    arms["wrong"] = derivatives.cost_arm(given, given.model, cost)
    assert list(agreement.differing(given, arms)) == ["wrong"]


def test_nothing_runs_in_cpp_in_python() -> None:
    """And as before after it, after an error too."""
    before = native.library
    with pytest.raises(KeyboardInterrupt), in_python():
        assert native.library() is None
        raise KeyboardInterrupt
    assert native.library is before


def test_the_arm_in_python_is_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward; where there is no library the other arm is it."""
    seen: list[object] = []

    def watched(model: Any, x: Tensor, *how: Any) -> Tensor:
        seen.append(native.library())
        found = by_hand(model, x, *how)
        found.register_hook(lambda g: seen.append(native.library()))
        return found

    by_hand = derivatives.by_hand
    monkeypatch.setattr(derivatives, "by_hand", watched)
    monkeypatch.setattr(native, "library", lambda: "a library")
    given = of(LAPLACIAN, (2, 4, 1), 8, "tanh")
    arms = derivatives.eager_arms(given)
    arms[DERIVATIVES_PYTHON].step()
    assert seen == [None, None]
    monkeypatch.setattr(native, "library", lambda: None)
    assert DERIVATIVES_PYTHON not in derivatives.eager_arms(given)


@pytest.mark.skipif(native.library() is None, reason="the library is not built")
def test_in_python_is_another_node() -> None:
    """Float32 goes through C++ outside, and again after it; the arm's own model never does."""
    given = of(LAPLACIAN, (2, 4, 1), 8, "tanh", "float32")
    inside = copy.deepcopy(given.model)

    def node(model: nn.Module) -> str:
        found = derivatives.by_hand(model, given.x, "laplacian", None)
        return str(type(found.grad_fn))

    outside = [node(given.model), node(given.model)]
    assert outside[0] == outside[1] and "DerivativesBackward" in outside[0]
    for _ in range(2):  # a second call is a guard's, where there is one
        with in_python():
            assert "DerivativesBackward" in node(inside) and node(inside) != outside[0]
    assert node(given.model) == outside[0]


def test_directions_are_signs_in_every_dtype() -> None:
    found = [costs.directions(torch.zeros(2, 100, dtype=d)) for d in (torch.float64, torch.half)]
    assert found[0].shape == (8, 100) and torch.equal(found[0], found[1].double())
    assert found[0].abs().eq(1).all() and len(found[0].unique(dim=0)) == 8


def test_arms_of_other_parts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that knows derivatives by the input alone is in their part alone."""

    def made(given: Any) -> Arm:
        return derivatives.eager_arms(given)[DERIVATIVES]

    monkeypatch.setattr(peers, "available", lambda *_: ({JAX_JET: made, JAX: made, JET: made}, []))
    row = Workload(LAPLACIAN, (2, 4, 1), 8, "tanh", "float64")
    wanted = [("second-order", row), ("derivatives", row)]
    available = AvailableArms(wanted, CPU, compiling=False)
    given = of(LAPLACIAN, (2, 4, 1), 8, "tanh")
    assert list(available.arms("second-order", given)) == [AUTOGRAD, "exact", "fast", JAX]
    assert {JAX_JET, JAX, JET, TORCH_FUNC} < set(available.arms("derivatives", given))
    assert available.notes == ["no torch.compile with --quick"]


def test_every_step_but_training_is_one_of_derivatives() -> None:
    assert {*STEPS, TRAINING} == set(costs.COSTS)
