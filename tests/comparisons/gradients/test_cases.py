"""The gradient cases: three arms agree, and every planted fault turns them red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from comparisons.counterparts import LOSSES
from comparisons.gradients.cases import CASES, Case, build, check
from manualbp import reference
from manualbp.maths import activations, losses
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Linear
from manualbp.reference import functions as reference_functions


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_case_agrees_by_the_bit(case: Case) -> None:
    """Function and autograd bit-exact; NumPy within 1e-12 of the float64 run."""
    report = check(case, seed=1, power=False)
    assert report.agrees, [(t.name, t.reason) for t in report.differing]
    assert report.bit_identical
    assert all(
        t.oracle_difference is not None and t.oracle_difference <= 1e-12 for t in report.tensors
    )


@pytest.mark.parametrize("case", CASES[::10], ids=lambda case: case.id)
def test_a_fault_would_be_seen(case: Case) -> None:
    """Every tenth; the command itself plants faults into all."""
    report = check(case, seed=1)
    assert report.agrees and report.power is not None and len(report.power.caught) >= 5


def test_cases_are_named_apart_and_cover_everything() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    for dtype in (torch.float32, torch.float64):
        seen = [case for case in CASES if case.dtype is dtype]
        assert {case.activation for case in seen} == set(ACTIVATIONS)
        assert {case.loss for case in seen} == set(LOSSES)
        assert {case.reduction for case in seen} == {"mean", "sum", "none"}
        assert {case.bias for case in seen} == {True, False}


def change_layer(
    change: Callable[..., tuple[object, object, object]],
) -> Callable[[pytest.MonkeyPatch], None]:
    original = Linear.backward

    def faulty(self, delta, needs, tape, grads, *how):  # type: ignore[no-untyped-def]
        h = original(self, delta, needs, tape, grads, *how)
        bias, weight = grads[-2:]
        grads[-1], grads[-2], h = change(weight, bias, h)
        return h

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Linear, "backward", faulty)

    return plant


def replace_on(owner: object, name: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def derivative_at_a(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations.SiLU, "needs", "a")


def oracle_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.backward

    def wrong(*args: object) -> reference.Gradients:
        found = right(*args)
        return found._replace(biases=[b if b is None else b * 0 for b in found.biases])

    monkeypatch.setattr(reference, "backward", wrong)


def oracle_slope_off(monkeypatch: pytest.MonkeyPatch) -> None:
    silu = reference_functions.ACTIVATIONS["silu"]
    off = silu._replace(df=lambda z: silu.df(z) * (1 + 1e-10))
    monkeypatch.setitem(reference_functions.ACTIVATIONS, "silu", off)


SQUARE = Case("silu", "mse", torch.float64, widths=(4, 4, 4))
MISSING_MEAN = replace_on(losses.MSE, "backward", lambda self, grad, o, y: 2 * (o - y) * grad)
FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "missing bias gradient": change_layer(lambda w, b, h: (w, b * 0, h)),
    "transposed weight gradient": change_layer(lambda w, b, h: (w.t(), b, h)),
    "weight gradient x 1.0001": change_layer(lambda w, b, h: (w * 1.0001, b, h)),
    "input gradient negated": change_layer(lambda w, b, h: (w, b, h if h is None else -h)),
    "derivative at a": derivative_at_a,
    "derivative left out": replace_on(
        activations.SiLU, "backward", lambda self, delta, z, into=None: delta
    ),
    "missing 1/N": MISSING_MEAN,
    "cotangent forgotten": replace_on(
        losses.MSE, "backward", lambda self, grad, o, y: 2 * (o - y) / o.numel()
    ),
    "no bias in the oracle": oracle_without_bias,
    "a slope of the oracle x (1 + 1e-10)": oracle_slope_off,
}  # fmt: skip


@pytest.mark.usefixtures("in_python")  # the faults are planted there
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_turn_it_red(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(SQUARE).agrees
    FAULTS[fault](monkeypatch)
    assert not check(SQUARE).agrees


def test_the_arms_are_who_they_say() -> None:
    """Autograd compared with itself would agree."""
    for case in CASES:
        e = build(case)
        packages = [type(m).__module__.split(".")[0] for m in
                    (e.manual, e.manual_loss, e.autograd, e.autograd_loss)]  # fmt: skip
        assert packages == ["manualbp", "manualbp", "torch", "torch"]
