"""Faults that one plain forward and backward does not show, and right kernels in their place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comparisons.power.close import CLOSE
from comparisons.power.judges import compared
from comparisons.power.pair import Pair, gradients
from comparisons.power.situations.cases import RIGHT, SITUATED, WRITES, Situated, layer_pair
from comparisons.power.situations.layer import Kernel, as_dense
from manualbp.parity import compare_gradients
from manualbp.parity.record import AGREE, DIFFER

NAMES = {f.name: f for f in SITUATED}
SMALL = [f for f in SITUATED if "1e-7" in f.where]
HIDDEN = [f for f in SITUATED if f not in SMALL]


def test_each_is_named_once_and_every_situation_has_one() -> None:
    assert len(NAMES) == len(SITUATED) > 20
    assert len({fault.where for fault in SITUATED}) >= 8


@pytest.mark.parametrize("fault", HIDDEN, ids=lambda f: f.name)
def test_it_is_right_in_one_plain_forward_and_backward(fault: Situated) -> None:
    """The reference's numbers, so that no judge of gradients sees anything."""
    pair = fault.make(0)
    found, expected = gradients(pair, pair.candidate), gradients(pair, fault.make(0).reference)
    torch.testing.assert_close(found, expected)
    assert [name for name, judge in CLOSE.items() if judge(fault.make(0))] == []


@pytest.mark.parametrize("fault", SITUATED, ids=lambda f: f.name)
def test_ours_sees_it_where_it_shows(fault: Situated) -> None:
    report = compared(fault.make(0))
    assert report.verdict == DIFFER
    if fault.where == WRITES:
        assert any("read only" in t.name for t in report.differing)
    elif fault in HIDDEN:
        assert fault.where in [s.name for s in report.failed] and not report.differing


@pytest.mark.parametrize("fault", [f for f in HIDDEN if f.where != WRITES], ids=lambda f: f.name)
def test_ours_does_not_see_it_without_situations(fault: Situated) -> None:
    pair = fault.make(0)
    (inputs, _), options = pair.batches[0], {"situations": False, "power": False}
    assert compare_gradients(pair.candidate, pair.reference, inputs, **options).verdict == AGREE


@pytest.mark.parametrize("fault", SMALL, ids=lambda f: f.name)
def test_a_small_gradient_with_the_wrong_sign_is_within_every_absolute_tolerance(
    fault: Situated,
) -> None:
    blind = [name for name, judge in CLOSE.items() if not judge(fault.make(0))]
    assert {"assert_close", "cosine", "norm 8 %", "times size"} <= set(blind)


def agrees(pair: Pair) -> None:
    report = compared(pair)
    assert report.verdict == AGREE, (report.differing, report.failed)
    assert {s.verdict for s in report.situations} == {AGREE}, report.situations


@pytest.mark.parametrize("kernel", RIGHT, ids=lambda k: k.__name__)
def test_a_right_kernel_agrees_in_every_situation(kernel: Kernel) -> None:
    agrees(layer_pair(kernel, 0))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", RIGHT, ids=lambda k: k.__name__)
def test_in_every_dtype(kernel: Kernel, dtype: torch.dtype) -> None:
    for seed in range(3):
        pair = layer_pair(kernel, seed, dtype)
        agrees(pair)
        agrees(replace(pair, loss=pair.trained))


def test_what_a_kernel_reads_that_ignores_strides() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(as_dense(x), x)
    assert torch.equal(as_dense(x.t()), x.reshape(3, 2))
    assert torch.equal(as_dense(x[:, ::2]), torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert torch.equal(as_dense(x[1, 2].expand(2)), torch.tensor([5.0, 0.0]))
