"""Modules that run by pairs, as on a GPU where ATen's routines run all: nn.Sequential's values.

In float64 the products are autograd's own, so first derivatives are bit-exact.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import manualbp
from manualbp.fast import tiles
from manualbp.fast.gpu import choice, kernels
from manualbp.fast.gpu.pairs import PairedLinear
from manualbp.modules import stretch
from tests.dropin.nets import Skip, Unknown, unequal
from tests.helpers import differing, gradients

CHILDREN: dict[str, Callable[[], list[nn.Module]]] = {
    "deep": lambda: [nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.SiLU(), nn.Linear(7, 6)],
    "ends": lambda: [nn.Sigmoid(), nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 6),
                     nn.GELU(), nn.Tanh()],
    "norms": lambda: [nn.LayerNorm(6), nn.Linear(6, 9), nn.GELU(), nn.LayerNorm(9),
                      nn.Linear(9, 6), nn.Softplus()],
    "batch": lambda: [nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 6)],
    "dropout": lambda: [nn.Linear(6, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 6)],
    "unknown": lambda: [nn.Linear(6, 9), nn.ELU(), nn.Linear(9, 9), Unknown(), nn.Linear(9, 6),
                        nn.ReLU(), nn.Linear(6, 6, bias=False)],
    "skip": lambda: [nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6), nn.Sigmoid()],
}  # fmt: skip


@pytest.fixture(autouse=True)
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on such a GPU; each Linear's passes by pairs."""
    monkeypatch.setattr(kernels, "takes", lambda x: True)
    monkeypatch.setattr(choice, "prefers_kernel", lambda step: False)
    seen: list[str] = []
    for name in ("forward", "backward"):
        right = getattr(PairedLinear, name)
        monkeypatch.setattr(
            PairedLinear, name, lambda *args, r=right, name=name: seen.append(name) or r(*args)
        )
    return seen


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, nn.Sequential]:
    """Ours in fast mode, and PyTorch's; (..., 6) to (..., 6)."""
    torch.manual_seed(0)
    theirs = (Skip if name == "skip" else nn.Sequential)(*CHILDREN[name]()).to(dtype)
    kind = manualbp.Residual if name == "skip" else manualbp.Sequential
    ours = kind(*copy.deepcopy(list(theirs)))
    manualbp.set_mode("fast", ours)
    return ours, theirs


def seeded(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return gradients(net, x)


def rows(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("name", CHILDREN)
@pytest.mark.parametrize("wants_x", [True, False])
def test_first_derivatives(name: str, wants_x: bool, count: list[str]) -> None:
    """Bit-exact; with one parameter frozen after the other, None where autograd has None."""
    ours, theirs = pair(name)
    for frozen in [None, *dict(theirs.named_parameters())]:
        for net in (ours, theirs):
            net.zero_grad()
            if frozen is not None:
                net.get_parameter(frozen).requires_grad_(False)
        shapes = [(5,), (2, 3), (2, 1, 3), (0,), ()] if name != "batch" else [(5,)]
        if not wants_x and not any(p.requires_grad for p in theirs.parameters()):
            break
        for shape in shapes:
            x = rows(*shape).requires_grad_(wants_x)
            assert differing(seeded(ours, x), seeded(theirs, x)) == [], (frozen, shape)
    assert {"forward", "backward"} == set(count)


def test_float32() -> None:
    """Bit-exact as well."""
    for name in CHILDREN:
        ours, theirs = pair(name, torch.float32)
        x = rows(5, dtype=torch.float32).requires_grad_()
        assert differing(seeded(ours, x), seeded(theirs, x)) == []


@pytest.mark.parametrize("name", ["deep", "ends", "norms", "skip"])
def test_higher_orders(name: str, second_order: None) -> None:
    """fp64: gradcheck's own tolerances; the third order like autograd's, 1e-12 of the largest."""
    ours, theirs = pair(name)
    x, found = rows(3).requires_grad_(), []
    torch.autograd.gradcheck(ours, x)
    torch.autograd.gradgradcheck(ours, x)
    for net in (ours, theirs):
        derivatives, cost = [], net(x).sin().sum()
        for _ in range(3):
            got = torch.autograd.grad(cost, [x, *net.parameters()], create_graph=True,
                                      allow_unused=True, materialize_grads=True)  # fmt: skip
            derivatives += got
            cost = torch.stack([g.square().sum() for g in got]).sum()
        found.append(derivatives)
    assert unequal(*found, rtol=1e-12) == ""


def test_gradients_come_in_at_hidden_layers(count: list[str]) -> None:
    """A penalty on dC/dx: its plain backward pass is one by pairs. fp64, 1e-13."""
    ours, theirs = pair("deep")
    x, found = rows(5).requires_grad_(), []
    for net in (ours, theirs):
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum() + net(x).sum(), [*net.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)
    assert count.count("backward") >= 2


@pytest.mark.parametrize("name", CHILDREN)
def test_batched_retained_pruned(name: str) -> None:
    """Pruned and retained bit-exact; batched products round otherwise, fp64 1e-13."""
    ours, theirs = pair(name)
    x, batched, others = rows(5).requires_grad_(), [], []
    for net in (ours, theirs):
        torch.manual_seed(2)
        o, wanted = net(x), [x, *net.parameters()]
        many = torch.stack([o.detach().cos(), o.detach(), torch.zeros_like(o)])
        single = [torch.autograd.grad(o, w, many[0], retain_graph=True) for w in wanted]
        twice = [torch.autograd.grad(o, wanted, many[1], retain_graph=True) for _ in range(2)]
        batched.append(torch.autograd.grad(o, wanted, many, is_grads_batched=True))
        others.append([g for part in (*single, *twice) for g in part])
    assert all(map(torch.equal, *others))
    torch.testing.assert_close(*batched, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("what", ["x", "0.weight", "2.weight", "0.bias", "o"])
def test_edits_in_place_raise_where_autograds_do(what: str) -> None:
    raised = []
    for net in pair("ends"):
        leaf = rows(5).requires_grad_()
        x = leaf.clone()
        net[0] = nn.Identity()  # then the first Linear reads x itself
        o = net(x)
        where = {"x": x, "o": o, "0.weight": net[1].weight, "0.bias": net[1].bias,
                 "2.weight": net[3].weight}[what]  # fmt: skip
        with torch.no_grad():
            where.mul_(2)
        try:
            o.sum().backward()
            raised.append(None)
        except RuntimeError as error:
            raised.append("modified by an inplace operation" in str(error))
    assert raised[0] == raised[1] == (None if what == "0.bias" else True)


def test_graph_is_freed() -> None:
    ours, _ = pair("deep")
    o = ours(rows(5)).sum()
    o.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        o.backward()


def test_backward_inside_autocast(count: list[str]) -> None:
    """Products of bfloat16, as autograd's are then: relative 3 % of each tensor's norm."""
    ours, theirs = pair("deep", torch.float32)
    x, found = rows(64, dtype=torch.float32).requires_grad_(), []
    for net in (ours, theirs):
        cost = net(x).square().sum()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(torch.autograd.grad(cost, [x, *net.parameters()]))
    for a, b in zip(*found, strict=True):
        assert a.dtype is b.dtype and (a - b).norm() < 0.03 * b.norm()
    assert "forward" in count


@pytest.mark.parametrize("name", CHILDREN)
def test_low_memory(name: str) -> None:
    """Bit-exact: what is computed once more is computed by the same operators."""
    ours, theirs = pair(name)
    manualbp.set_memory("low", ours)
    x = rows(5).requires_grad_()
    assert differing(seeded(ours, x), seeded(theirs, x)) == []


@pytest.mark.usefixtures("in_python")
def test_long_batches_are_not_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-exact: tiles are for a processor's caches."""
    monkeypatch.setattr(tiles, "FRESH_BYTES", 1)
    ours, theirs = pair("deep")
    x = rows(2**14).requires_grad_()
    assert type(ours(x).grad_fn).__name__ == "ChainBackward"
    assert differing(gradients(ours, x), gradients(theirs, x)) == []
    monkeypatch.setattr(kernels, "takes", lambda x: False)
    assert type(ours(x).grad_fn).__name__ == "RecomputedBackward"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_distributed_training_has_a_chain_for_each_layer(count: list[str]) -> None:
    """Bit-exact: one process; and all of them by pairs."""
    ours, theirs = pair("deep")
    x = rows(5).requires_grad_()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        together = seeded(nn.parallel.DistributedDataParallel(ours), x)
    finally:
        dist.destroy_process_group()
    named = {name.removeprefix("module."): t for name, t in together.items()}
    assert differing(named, seeded(theirs, x)) == []
    assert count == ["forward"] * 3 + ["backward"] * 3


def test_planted_unpaired_pieces_are_caught(
    count: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretch.fast, "paired", lambda layers, thetas: layers)
    with pytest.raises(AssertionError, match="forward"):
        test_distributed_training_has_a_chain_for_each_layer(count)


@pytest.mark.parametrize("tile", [3, 5, 100])
@pytest.mark.parametrize("wants_x", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["deep", "ends", "norms"])
def test_fused_loss(name: str, reduction: str, wants_x: bool, tile: int, count: list[str]) -> None:
    """fp64, sums of 11 rows in another order: 1e-13. Under no_grad the same loss."""
    ours, theirs = pair(name)
    x, y = rows(11).requires_grad_(wants_x), rows(11).flip(0)
    cost = manualbp.FusedLoss(ours, nn.MSELoss(reduction=reduction), tile)
    found = []
    for frozen in ("1.weight", "2.bias", "4.weight", None):
        for net in (ours, theirs):
            for n, p in net.named_parameters():
                p.requires_grad_(n != frozen)
        for net in (cost, lambda x, y: nn.MSELoss(reduction=reduction)(theirs(x), y)):
            loss = net(x, y)
            parameters = (ours if net is cost else theirs).parameters()
            wanted = [t for t in (x, *parameters) if t.requires_grad]
            found.append([loss, *torch.autograd.grad(3 * loss, wanted)])
        torch.testing.assert_close(*found[-2:], rtol=1e-13, atol=1e-13)
    assert {"forward", "backward"} == set(count)
    with torch.no_grad():
        torch.testing.assert_close(cost(x, y), found[-1][0], rtol=1e-13, atol=0)


def test_planted_fault_in_a_pass_by_pairs_is_caught(
    count: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of the last tile alone."""
    right = tiles.Sums.add

    def wrong(self: tiles.Sums, grads: list[Tensor | None]) -> None:
        self.totals = []
        right(self, grads)

    monkeypatch.setattr(tiles.Sums, "add", wrong)
    with pytest.raises(AssertionError, match="not close"):
        test_fused_loss("deep", "mean", False, 3, count)
