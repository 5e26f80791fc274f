"""By tiles in C++: every activation, loss and size, held by float64 beside autograd's own error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import manualbp
from manualbp.fast import native
from manualbp.fast.native import tiled
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Linear
from tests.fast.native import judged
from tests.fast.native.judged import WAYS, found, network, plain, wrong

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")


@pytest.mark.parametrize("loss", judged.losses())
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_loss(activation: str, loss: str) -> None:
    criterion, kind = judged.losses()[loss]
    net = network((17, 33, 18, 5), activation)
    assert wrong(net, criterion, *judged.data(net, criterion, kind, 130)) == []


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 1001, 5000])
@pytest.mark.parametrize("width", [1, 3, 17, 33, 130, 300])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_sizes(activation: str, width: int, rows: int) -> None:
    """Without LayerNorm, which at a width of 1 to 3 divides by differences near nothing."""
    for name in ("mse", "classes"):
        loss, kind = judged.losses()[name]
        net = network((width, width, width + 1, 5), activation, norm=width > 3)
        assert wrong(net, loss, *judged.data(net, loss, kind, rows)) == []


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", range(8))
def test_frozen_subsets(frozen: int, bias: bool) -> None:
    loss, kind = judged.losses()["mse"]
    net = network((9, 33, 20, 5), "silu", bias=bias)
    for i, p in enumerate(net.parameters()):
        p.requires_grad_((i * 7 + frozen) % 3 != 0)
    assert wrong(net, loss, *judged.data(net, loss, kind, 65)) == []


@pytest.mark.parametrize("wants_weights", [True, False])
def test_gradient_of_x(wants_weights: bool) -> None:
    loss, kind = judged.losses()["classes weights"]
    net = network((9, 33, 20, 5), "gelu").requires_grad_(wants_weights)
    x, y = judged.data(net, loss, kind, 130)
    assert wrong(net, loss, x.requires_grad_(), y, ("graph", "direct")) == []


def test_strided() -> None:
    loss, kind = judged.losses()["mse"]
    net = network((9, 33, 5))
    x, y = judged.data(net, loss, kind, 130)
    for laid in (lambda t: t.t().contiguous().t(), lambda t: t.repeat(1, 2)[:, : t.shape[1]]):
        assert wrong(net, loss, laid(x), laid(y)) == []
    assert wrong(net, loss, x[:1].expand(130, 9), y[:1].expand(130, 5)) == []


@pytest.mark.parametrize("tile_rows", [1, 7, 19])
def test_tiles_of_odd_rows(tile_rows: int) -> None:
    """A tile's memory has whole cache lines for each layer, whatever its rows."""
    net = nn.Sequential(nn.Linear(9, 5), *(nn.LayerNorm(5) for _ in range(6)), nn.Linear(5, 3))
    net, x, y = net.double(), torch.randn(40, 9), torch.randn(40, 3)  # the last tile is shorter
    nn.MSELoss()(net(x.double()), y.double()).backward()
    expected = [p.grad for p in net.parameters()]
    net = copy.deepcopy(net).float()
    net.zero_grad()
    manualbp.FusedLoss(net, nn.MSELoss(), tile_rows=tile_rows).backward(x, y)
    for p, e in zip(net.parameters(), expected, strict=True):
        assert p.grad is not None and e is not None
        assert (p.grad.double() - e).norm() <= 1e-5 * max(float(e.norm()), 1e-3)  # some roundings


def test_a_strided_weight_goes_pythons_way() -> None:
    """Its gradient has to be laid out like it."""
    net = network((9, 33, 5))
    net[0].weight = nn.Parameter(net[0].weight.detach().t().contiguous().t())
    fused, x, y = manualbp.FusedLoss(net, nn.MSELoss()), torch.randn(130, 9), torch.randn(130, 5)
    assert judged.node(fused(x, y)) == "OnePassBackward"
    nn.MSELoss()(net(x), y).backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    fused.backward(x, y)
    for p, e in zip(net.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, rtol=1e-5, atol=1e-6)  # a few roundings


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("way", WAYS)
def test_nan_and_infinity_where_autograd_has_them(way: str, activation: str) -> None:
    """Denormals, squares that overflow, infinity and NaN in x, then in a weight.

    PyTorch's own Hardtanh passes a NaN on in the last few numbers of a tensor and stops it in the
    others: where it has one, so have we, and maybe elsewhere.
    """
    loss, kind = judged.losses()["mse"]
    net = network((9, 33, 20, 5), activation, norm=False)
    x, y = judged.data(net, loss, kind, 70)
    for value in (1e-42, 1e30, -1e30, torch.inf, -torch.inf, torch.nan):
        for place in ("x", "weight"):
            other, h = copy.deepcopy(net), x.clone()
            (h if place == "x" else other[0].weight.data)[3, 2] = value
            ours, theirs = (found(w, other, loss, h, y) for w in (WAYS[way], plain))
            for name, e in theirs.items():
                g = ours[name]
                assert (g is None) == (e is None), (value, place, name)
                if e is not None and g is not None:
                    stopped = activation == "hardtanh" and value != value
                    here, there = g.isfinite(), e.isfinite()
                    assert torch.equal(here & there if stopped else there, here), (value, place)


def fast(net: nn.Sequential) -> manualbp.Sequential:
    model = manualbp.Sequential(*net)
    manualbp.set_mode("fast", model)
    return model


@pytest.fixture(params=["kept", "recomputed"])
def keeps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "recomputed":
        monkeypatch.setattr(tiled, "FRESH_BYTES", 0)


@pytest.mark.usefixtures("keeps")
@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
def test_second_order(activation: str) -> None:
    """fp32 beside float64: a relative 1e-4 of the norm, some hundred roundings."""
    net, x, results = network((9, 33, 20, 5), activation), torch.randn(70, 9), []
    for model, h in ((fast(net), x), (copy.deepcopy(net).double(), x.double())):
        p = list(model.parameters())
        o = model(h)
        first = torch.autograd.grad(o.square().mean(), p, create_graph=True)
        cost = torch.stack([g.square().sum() for g in first]).sum()
        results.append(torch.autograd.grad(cost, p, allow_unused=True))
    for a, e in zip(*results, strict=True):
        assert (a is None) == (e is None)
        assert a is None or (a.double() - e).norm() <= 1e-4 * e.norm()


@pytest.mark.usefixtures("keeps")
def test_a_batch_of_cotangents() -> None:
    """is_grads_batched: the same as one after the other, up to 1e-5 of the norm."""
    net, x, g = network((9, 33, 20, 5)), torch.randn(70, 9), torch.randn(3, 70, 5)
    model = fast(net)
    p = list(model.parameters())
    o = model(x)
    assert judged.node(o) == "TilesBackward"
    batched = torch.autograd.grad(o, p, g, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        single = torch.autograd.grad(o, p, g[i], retain_graph=True)
        for a, b in zip(batched, single, strict=True):
            assert (a[i] - b).norm() <= 1e-5 * b.norm()


@pytest.mark.usefixtures("keeps")
@pytest.mark.parametrize("change", ["x", "2.weight", "4.weight"])
def test_edited_in_place(change: str) -> None:
    """Before backward: autograd's error, of x and of each weight that nn.Sequential reads again."""
    for ours in (True, False):
        net, x = network((9, 33, 20, 5), norm=False), torch.randn(70, 9)
        o = (fast(net) if ours else net)(x)
        with torch.no_grad():
            (x if change == "x" else net.get_parameter(change)).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            o.sum().backward()


@pytest.mark.usefixtures("keeps")
def test_other_data_and_backward_again() -> None:
    """p.data exchanged: the gradients of the forward that was. Twice: an error, unless retained."""
    net, x, results = network((9, 33, 20, 5), norm=False), torch.randn(70, 9), []
    for model in (fast(copy.deepcopy(net)), copy.deepcopy(net)):
        o = model(x)
        p = list(model.parameters())
        once = torch.autograd.grad(o.square().sum(), p, retain_graph=True)
        for each in p:
            each.data = torch.zeros_like(each)
        cost = o.square().sum()
        results.append(torch.autograd.grad(cost, p))
        assert all(map(torch.equal, once, results[-1]))
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(o.sum(), p)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_mode_and_weights_are_seen_at_once() -> None:
    """Fast for a while, or for a model; and a weight that is no parameter."""
    net, x = network((9, 33, 20, 5)), torch.randn(70, 9)
    model = manualbp.Sequential(*net)
    for _ in range(3):
        assert judged.node(model(x)) != "TilesBackward"
        with manualbp.set_mode("fast"):
            assert judged.node(model(x)) == "TilesBackward"
    manualbp.set_mode("fast", model)
    for scale in (2, 3):
        weight = net[3].weight.detach() * scale
        del net[3].weight
        net[3].weight = weight
        assert judged.node(model(x)) == "TilesBackward"
        assert (model(x) - net(x)).norm() <= 1e-6 * net(x).norm()  # fp32: some roundings


def test_planted_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another activation, no bias, another loss option: seen in every way that runs it."""
    loss, kind = judged.losses()["classes weights"]
    net = network((17, 33, 18, 5), "tanh")
    x, y = judged.data(net, loss, kind, 130)
    right = tiled.exact.number, tiled.backprop.by_layer

    def without_bias(layers: Any, each: Any) -> Any:
        """Where a Linear layer's tensors lie, its bias nowhere."""
        found = right[1](layers, each)
        return [(f[0], -1) if type(a) is Linear else f for a, f in zip(layers, found, strict=True)]

    assert wrong(net, loss, x, y) == []
    with monkeypatch.context() as patch:
        patch.setattr(tiled, "_activation", lambda layer: ("relu", 0.0, 0.0))
        assert {text.partition(":")[0] for text in wrong(net, loss, x, y)} == set(WAYS)
    with monkeypatch.context() as patch:
        patch.setattr(tiled.exact, "number", lambda loss: right[0](loss) + 1e-3)
        assert any("graph" in text for text in wrong(net, loss, x, y, ("graph",)))
    with monkeypatch.context() as patch:
        patch.setattr(tiled.backprop, "by_layer", without_bias)
        assert {text.partition(":")[0] for text in wrong(net, loss, x, y)} == set(WAYS)


def test_few_rows_through_large_parameters_run_as_in_exact_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They do not pay for W^T in panels and for each thread's gradients."""
    monkeypatch.setattr(tiled, "LARGE_BYTES", 4 * (7 * 9 + 9))
    for inputs, rows, kind in ((7, 2047, "ChainBackward"), (7, 2048, "TilesBackward"),
                               (6, 2047, "TilesBackward")):  # fmt: skip
        model = manualbp.Sequential(nn.Linear(inputs, 9), nn.Tanh())
        manualbp.set_mode("fast", model)
        assert judged.node(model(torch.randn(rows, inputs))) == kind
