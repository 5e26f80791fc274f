"""FusedLoss: one pass over tiles equals loss(model(x), y) up to rounding, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import manualbp
from manualbp.fast import one_pass, tiles
from manualbp.maths import layers

ROWS = 1300  # three tiles of 512, the last one uneven


def losses() -> dict[str, tuple[nn.Module, Tensor]]:
    """Every loss of the project, ours and torch.nn's, with weights and ignored targets."""
    torch.manual_seed(1)
    real, indices = torch.randn(ROWS, 5), torch.randint(5, (ROWS,))
    weight = torch.rand(5) + 0.5
    return {
        "torch.nn mse": (nn.MSELoss(), real),
        "mse sum": (manualbp.MSELoss(reduction="sum"), real),
        "l1": (manualbp.L1Loss(), real),
        "torch.nn huber": (nn.HuberLoss(delta=0.5), real),
        "smooth l1": (manualbp.SmoothL1Loss(beta=0.3), real),
        "torch.nn bce": (
            nn.BCEWithLogitsLoss(weight, pos_weight=weight + 1), torch.rand(ROWS, 5)
        ),
        "cross-entropy": (manualbp.CrossEntropyLoss(), indices),
        "torch.nn cross-entropy": (
            nn.CrossEntropyLoss(weight, ignore_index=2, label_smoothing=0.1), indices
        ),
        "cross-entropy of probabilities, sum": (
            manualbp.CrossEntropyLoss(weight, reduction="sum"), torch.rand(ROWS, 5).softmax(-1)
        ),
    }  # fmt: skip


def model(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 64), activation(), nn.LayerNorm(64), nn.Linear(64, 32), activation(),
        nn.Linear(32, 5),
    )  # fmt: skip


def passed(cost: nn.Module, net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor | None]:
    """The loss, times a cotangent, and every gradient that is wanted."""
    x = x.detach().requires_grad_(x.requires_grad)
    net.zero_grad()
    loss = cost(x, y)
    (3 * loss).backward()
    named = {name: p.grad for name, p in net.named_parameters()}
    return {"loss": loss.detach(), "input": x.grad, **copy.deepcopy(named)}


def apart(net: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, tile: int | None = 512) -> float:
    """Largest difference from loss(net(x), y), relative to each tensor's largest."""
    found = passed(manualbp.FusedLoss(net, loss, tile), net, x, y)
    expected = passed(lambda x, y: loss(net(x), y), net, x, y)  # type: ignore[arg-type]
    assert [k for k, g in found.items() if g is None] == [
        k for k, g in expected.items() if g is None
    ]
    return max(
        float((g - expected[k]).abs().max() / expected[k].abs().max())
        for k, g in found.items()
        if g is not None
    )


@pytest.mark.parametrize("name", losses())
@pytest.mark.parametrize("wants_x", [True, False])
def test_every_loss(name: str, wants_x: bool) -> None:
    """fp64, sums over 1300 rows in another order: 1e-12."""
    loss, y = losses()[name]
    net, x = model().double(), torch.randn(ROWS, 16, dtype=torch.float64)
    y = y.double() if y.is_floating_point() else y
    assert is_fused(net, loss.double(), x, y)
    assert apart(net, loss, x.requires_grad_(wants_x), y) < 1e-12


def is_fused(net: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> bool:
    return type(manualbp.FusedLoss(net, loss, 512)(x, y).grad_fn).__name__ == "OnePassBackward"


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU])
def test_error_against_float64(activation: type[nn.Module]) -> None:
    """fp32: at most 1.5 times autograd's own relative distance, root mean square over tensors."""
    net, x = model(activation), torch.randn(2**14, 16)
    y, loss = torch.randn(2**14, 5), nn.MSELoss()
    double = copy.deepcopy(net).double()
    exact = passed(lambda x, y: loss(double(x), y), double, x.double(), y.double())  # type: ignore[arg-type]
    theirs = passed(lambda x, y: loss(net(x), y), net, x, y)  # type: ignore[arg-type]
    ours = passed(manualbp.FusedLoss(net, loss), net, x, y)
    errors = []
    for found in (ours, theirs):
        relative = [
            float((found[name].double() - e).norm() / e.norm())  # type: ignore[union-attr]
            for name, e in exact.items()
            if e is not None
        ]
        errors.append(sum(r * r for r in relative) ** 0.5)
    assert errors[0] <= 1.5 * errors[1]


def test_frozen_layers_and_accumulation() -> None:
    """fp64: None where autograd has None; two passes add up."""
    net, x, y = model().double(), torch.randn(ROWS, 16).double(), torch.randn(ROWS, 5).double()
    for name in ("0.weight", "2.bias", "3.weight", "5.bias"):
        net.get_parameter(name).requires_grad_(False)
        assert apart(net, nn.MSELoss(), x, y) < 1e-12
    cost = manualbp.FusedLoss(net, nn.MSELoss(), 512)
    once = passed(cost, net, x, y)["3.bias"]
    (3 * cost(x, y)).backward()
    assert once is not None and torch.allclose(net[3].bias.grad, 2 * once, rtol=1e-12)


def test_no_grad_computes_the_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = model(), torch.randn(ROWS, 16), torch.randn(ROWS, 5)
    expected = nn.MSELoss()(net(x), y).detach()
    monkeypatch.setattr(layers.Linear, "backward", None)
    with torch.no_grad():
        torch.testing.assert_close(manualbp.FusedLoss(net, nn.MSELoss(), 512)(x, y), expected)


def test_memory_does_not_grow_with_the_batch() -> None:
    """Nothing of the batch is kept for backward: only gradients of the parameters."""
    net = model()
    kept = []
    for rows in (1024, 8192):
        sizes: list[int] = []

        def pack(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.untyped_storage().nbytes())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            manualbp.FusedLoss(net, nn.MSELoss(), 512)(torch.randn(rows, 16), torch.randn(rows, 5))
        kept.append(sum(sizes))
    assert kept[0] == kept[1] == sum(p.nbytes for p in net.parameters())


def test_tiles_fit_the_cache() -> None:
    """By the widest activation, and no more of them than that asks for, of nearly equal length."""
    for width, itemsize, most in ((8, 4, 8192), (64, 4, 8192), (128, 8, 2048), (10**5, 4, 512)):
        thetas = [(torch.empty(8, 4), None), (), (torch.empty(width, 1), None)]
        for count in (1, most, most + 1, 10**6):
            tile = tiles.rows_of_tile(count, thetas, itemsize)
            pieces = tiles.slices(count, tile)
            assert tile <= most and (len(pieces) - 1) * most < count <= len(pieces) * most
            assert pieces[-1].stop - count < len(pieces)


@pytest.mark.slow
def test_a_sum_of_many_tiles_keeps_its_digits() -> None:
    """fp32, 20,000 terms one after the other would be off by 1e-6 and more: relative 2e-7."""
    net, x, y = model(), torch.randn(20000, 16), torch.randn(20000, 5)
    for reduction in ("mean", "sum"):
        loss = nn.MSELoss(reduction=reduction)
        exact = loss(copy.deepcopy(net).double()(x.double()), y.double())
        found = manualbp.FusedLoss(net, loss, 1)(x, y)
        assert abs(found.double() - exact) <= 2e-7 * exact


def test_gradients_belong_to_who_asked() -> None:
    """Edited, they do not disturb a retained graph."""
    net, x, y = model(), torch.randn(ROWS, 16), torch.randn(ROWS, 5)
    loss = manualbp.FusedLoss(net, nn.MSELoss(), 512)(x, y)
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    expected = [g.clone() for g in first]
    for g in first:
        g.mul_(2)
    second = torch.autograd.grad(loss, list(net.parameters()))
    assert all(map(torch.equal, second, expected))


def test_errors() -> None:
    net, x, y = model(), torch.randn(64, 16), torch.randn(64, 5)
    cost = manualbp.FusedLoss(net, manualbp.MSELoss(), 512)
    with pytest.raises(ValueError, match="tile_rows must be at least 1, got 0"):
        manualbp.FusedLoss(net, nn.MSELoss(), 0)
    with pytest.raises(TypeError, match=r"loss must be an nn\.Module, got function"):
        manualbp.FusedLoss(net, nn.functional.mse_loss)
    with pytest.raises(ValueError, match=r"target of MSE must be \(64, 5\)"):
        cost(x, y[:, :1])
    with pytest.raises(RuntimeError, match=r"no second derivatives.*use loss\(model"):
        torch.autograd.grad(cost(x.requires_grad_(), y), x, create_graph=True)
    with pytest.raises(IndexError):
        manualbp.FusedLoss(net, nn.CrossEntropyLoss(), 512)(x, torch.full((64,), 5))


def test_planted_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over each tile alone, the last tile lost, and everything 0.1 % too large."""
    net, x, y = model().double(), torch.randn(ROWS, 16).double(), torch.randn(ROWS, 5).double()
    right = one_pass.cost_and_gradients

    def last_tile_lost(steps, loss, rows, x, y):  # type: ignore[no-untyped-def]
        return right(steps, loss, rows, x[:1024], y[:1024])

    def too_large(*args):  # type: ignore[no-untyped-def]
        cost, grad_input, thetas = right(*args)
        return cost * 1.001, grad_input, [None if g is None else g * 1.001 for g in thetas]

    for name, fault in (
        ("replace", lambda loss, reduction: loss),
        ("cost_and_gradients", last_tile_lost),
        ("cost_and_gradients", too_large),
    ):
        with monkeypatch.context() as m:
            m.setattr(one_pass, name, fault)
            assert apart(net, nn.MSELoss(), x, y) > 1e-6
    assert apart(net, nn.MSELoss(), x, y) < 1e-12


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_data_parallel() -> None:
    """fp64, as without it: one process."""
    net, x, y = model().double(), torch.randn(ROWS, 16).double(), torch.randn(ROWS, 5).double()
    cost = manualbp.FusedLoss(net, nn.MSELoss(), 512)
    alone = passed(cost, net, x, y)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        together = passed(DistributedDataParallel(cost), net, x, y)
    finally:
        dist.destroy_process_group()
    for name, g in alone.items():
        assert g is together[name] is None or torch.equal(g, together[name])  # type: ignore[arg-type]
