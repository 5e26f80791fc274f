"""What else a narrow net's step in one launch is: what it gives whom, the same bits, NaN."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from manualbp.maths import activations
from manualbp.maths.activations import Activation
from manualbp.parity import bit_identical
from tests.fast.gpu.kernels.costs import TANH, Expression, OnePass, batch, gradients, network

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("by_kernels")]


@pytest.mark.parametrize("wants_x", [True, False])
@pytest.mark.parametrize(
    "frozen",
    ["", "0.weight", "0.bias", "2.weight", "4.bias", "0.weight 0.bias", "2.weight 2.bias",
     "0.weight 0.bias 2.weight 2.bias", "0.weight 0.bias 2.weight 4.weight 4.bias"],
)  # fmt: skip
def test_what_is_not_wanted(
    frozen: str, wants_x: bool, device: str, launches: Counter[str]
) -> None:
    """None where autograd gives None; the rest has the bits that it has when all is wanted."""
    net, loss = network((5, 12, 9, 3)).to(device), nn.CrossEntropyLoss(label_smoothing=0.2)
    x, y = (t.to(device) for t in batch(70, 5, 3, loss))
    everything = gradients(OnePass(copy.deepcopy(net), loss, y), x.clone().requires_grad_())
    for name in frozen.split():
        net.get_parameter(name).requires_grad_(False)
    x.requires_grad_(wants_x)
    ours = gradients(OnePass(copy.deepcopy(net), loss, y), x)
    theirs = gradients(Expression(net, loss, y), x)
    for name, g in ours.items():
        assert (g is None) == (theirs[name] is None), name
        assert g is None or bit_identical(g, everything[name]), name
    assert launches == {"step": 2}


def test_the_same_bits_every_time(device: str) -> None:
    """Bit-exact, several programs with several tiles each."""
    loss = nn.HuberLoss()
    x, y = (t.to(device) for t in batch(700, 6, 3, loss))
    cost = OnePass(network((6, 20, 3)).to(device), loss, y)
    first, second = (copy.deepcopy(gradients(cost, x.requires_grad_())) for _ in range(2))
    cost.zero_grad()
    again = gradients(cost, x)
    assert all(bit_identical(first[name], again[name]) for name in first)
    weight = "model.0.weight"
    assert bit_identical(second[weight], 2 * first[weight])  # accumulated


def test_every_layout(device: str, launches: Counter[str]) -> None:
    """Bit-exact: the same numbers in other strides."""
    net, loss = network((6, 20, 3)).to(device), nn.MSELoss()
    x, y = (t.to(device) for t in batch(70, 6, 3, loss))
    expected = gradients(OnePass(copy.deepcopy(net), loss, y), x)
    for m in (net[0], net[2]):
        m.weight = nn.Parameter(m.weight.detach().t().contiguous().t())
    others = x.t().contiguous().t(), y.repeat_interleave(2, 0)[::2]
    found = gradients(OnePass(net, loss, others[1]), others[0])
    assert all(g is expected[k] is None or bit_identical(g, expected[k]) for k, g in found.items())
    rows = x[:1].expand(70, 6)
    for kind in (Expression, OnePass):
        net.zero_grad()
        found, expected = gradients(kind(net, loss, y), rows), found
    for name in ("loss", "model.0.weight"):  # a hundred times the rounding of their sums
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert launches == {"step": 3}


def test_no_grad_computes_the_loss_alone(device: str, launches: Counter[str]) -> None:
    """Bit-exact."""
    loss = nn.BCEWithLogitsLoss()
    x, y = (t.to(device) for t in batch(70, 6, 3, loss))
    cost = OnePass(network((6, 20, 3)).to(device), loss, y)
    with torch.no_grad():
        alone = cost(x)
    assert not alone.requires_grad and bit_identical(alone, cost(x).detach())
    assert launches == {"step": 2}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_sample_counts(reduction: str, device: str, launches: Counter[str]) -> None:
    """Bit-exact: a loss of NaN, or 0 for the sum, and gradients of 0."""
    loss, y = nn.CrossEntropyLoss(reduction=reduction), torch.full((70,), -100, device=device)
    net, x = network((6, 20, 3)).to(device), torch.randn(70, 6, device=device, requires_grad=True)
    ours = gradients(OnePass(copy.deepcopy(net), loss, y), x)
    theirs = gradients(Expression(net, loss, y), x)
    assert torch.equal(ours.pop("loss").isnan(), theirs.pop("loss").isnan())
    assert all(g is not None and not g.any() for g in [*ours.values(), *theirs.values()])
    assert launches == {"step": 1}


def test_a_class_that_there_is_not_gives_nan(device: str, launches: Counter[str]) -> None:
    """A kernel cannot raise; but it does not read beside its tensors, or call it 0."""
    net = network((6, 20, 3)).to(device)
    for wrong_class in (3, 16, 2**31, -1, -(2**40)):
        x, y = (t.to(device) for t in batch(70, 6, 3, nn.CrossEntropyLoss()))
        y[7] = wrong_class
        found = gradients(OnePass(net, nn.CrossEntropyLoss(), y), x.requires_grad_())
        assert found["loss"].isnan() and found["model.2.bias"].isnan().all()
        assert found["input"][7].isnan().all() and found["input"][8:].isfinite().all()
    assert launches == {"step": 5}


@pytest.mark.parametrize("f", [activations.ReLU(), activations.Hardtanh(), TANH], ids=str)
def test_nan_and_infinity_where_autograd_has_them(f: Activation, device: str) -> None:
    net, loss = network((6, 20, 20, 3), f).to(device), nn.MSELoss(reduction="sum")
    x, y = (t.to(device) for t in batch(70, 6, 3, loss))
    x[0, 0], x[1, 1], x[65, 2], x[66, 3] = torch.inf, -torch.inf, torch.nan, 1e25
    if isinstance(f, activations.Hardtanh):
        x[65, 2] = 0  # f' of NaN is 0 in PyTorch's code for CPUs, and 1 in its code for GPUs
    x.requires_grad_()
    ours, theirs = (gradients(k(copy.deepcopy(net), loss, y), x) for k in (OnePass, Expression))
    for name, g in ours.items():
        assert torch.equal(g.isfinite(), theirs[name].isfinite()), name
