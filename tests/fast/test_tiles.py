"""Fast mode: long batches and low memory run by tiles of rows."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast import tiles
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import Linear
from tests.dropin.nets import Skip, unequal
from tests.helpers import autograd_twin, hand_twin

READ_Z = [name for name, f in ACTIVATIONS.items() if f.needs == "z"]
SHAPES = [(1300, 16), (3, 400, 16), (1, 16), (0, 16), (16,)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tiles, the last one uneven."""
    monkeypatch.setattr(tiles, "LEAST_ROWS", 512)
    monkeypatch.setattr(tiles, "TILE_BYTES", 2**10)


Pair = tuple[nn.Sequential, nn.Sequential]


def ours_of(theirs: nn.Sequential, memory: str) -> nn.Sequential:
    """In fast mode."""
    ours = hand_twin(theirs)
    manualbp.set_mode("fast", ours)
    manualbp.set_memory(memory, ours)
    return ours


def nets(activation: str, memory: str, dtype: torch.dtype = torch.float64) -> Pair:
    """Ours with norms in it, and PyTorch's own."""
    torch.manual_seed(0)
    f = [manualbp.MLP((1, 1, 1), activation)[1] for _ in range(3)]
    theirs = nn.Sequential(
        nn.Linear(16, 48), f[0], nn.Linear(48, 32), f[1], nn.LayerNorm(32), nn.Linear(32, 24),
        nn.RMSNorm(24), f[2], nn.Linear(24, 5),
    ).to(dtype)  # fmt: skip
    return ours_of(theirs, memory), theirs


def gradients(net: nn.Module, x: Tensor, g: Tensor) -> list[Tensor | None]:
    x = x.detach().requires_grad_(x.requires_grad)
    output = net(x)
    wanted = [t for t in (x, *net.parameters()) if t.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, wanted, g)]


def check(ours: nn.Module, theirs: nn.Module, x: Tensor, g: Tensor) -> None:
    """At most 1.5 times autograd's own distance from float64, and half an ulp of the size."""
    ulp = torch.finfo(x.dtype).eps / 2
    wide = [t.detach().double().requires_grad_(t.requires_grad) for t in (x, g)]
    exact = gradients(copy.deepcopy(theirs).double(), *wide)
    arms = gradients(ours, x, g), gradients(theirs, x, g), exact
    for a, b, e in zip(*arms, strict=True):
        assert a is not None and b is not None and e is not None
        assert a.shape == b.shape and a.dtype is b.dtype and a.isfinite().all()
        mine, autograd = (float((t.double() - e).norm()) for t in (a, b))
        assert mine <= 1.5 * autograd + ulp * float(e.norm())


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_against_float64(activation: str, memory: str) -> None:
    for shape, dtype in itertools.product(SHAPES, (torch.float32, torch.bfloat16)):
        ours, theirs = nets(activation, memory, dtype)
        if dtype is torch.bfloat16:
            theirs = theirs[:4]
            ours = ours_of(theirs, memory)
        x = torch.randn(shape, dtype=dtype, requires_grad=True)
        check(ours, theirs, x, torch.randn_like(theirs(x)))


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("activation", ["relu", "tanh", *READ_Z])
def test_extreme_values(activation: str, memory: str) -> None:
    """NaN and infinities where autograd has them, rows beside them untouched."""
    torch.manual_seed(0)
    theirs = autograd_twin(manualbp.MLP((16, 48, 32, 5), activation))
    ours = ours_of(theirs, memory)
    x, g = torch.randn(1300, 16, requires_grad=True), torch.randn(1300, 5)
    with torch.no_grad():
        x[0], x[1, 0], x[600, 0], x[1200, 0] = 1e-40, 1e30, torch.inf, torch.nan
    for end in (1, 600, 1300):  # only the last has infinities in the sums over rows
        arms = [
            gradients(net, x[:end].detach().requires_grad_(), g[:end]) for net in (ours, theirs)
        ]
        for a, b in zip(*arms, strict=True):
            assert a is not None and b is not None and torch.equal(a.isfinite(), b.isfinite())


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "elu"])
def test_frozen_parts(activation: str, memory: str) -> None:
    """fp64, another order of sums: relative 1e-12; None where autograd has None."""
    names = [name for name, _ in nets(activation, memory)[1].named_parameters()]
    for name, wants_x in itertools.product(names, (True, False)):
        found = []
        for net in nets(activation, memory):
            net.get_parameter(name).requires_grad_(False)
            x = torch.randn(1300, 16, generator=torch.Generator().manual_seed(1)).double()
            x.requires_grad_(wants_x)
            net(x).sin().sum().backward()
            found.append([x.grad, *[p.grad for p in net.parameters()]])
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * float(b.abs().max()))


def of_slope(net: nn.Module, x: Tensor) -> list[Tensor | None]:
    """dC/dx, and the gradients of its square."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(x).sin().sum(), x, create_graph=True)
    g.pow(2).sum().backward()
    return [g.detach(), x.grad, *[p.grad for p in net.parameters()]]


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a not in ("relu", "leaky_relu")])
def test_second_order(activation: str, memory: str) -> None:
    """fp64: relative 1e-11 of each tensor's largest."""
    x = torch.randn(1300, 16, generator=torch.Generator().manual_seed(1)).double()
    found = [of_slope(net, x) for net in nets(activation, memory)]
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()))


def test_residual_and_batched_cotangents() -> None:
    """fp64, relative 1e-12; is_grads_batched runs whole."""
    torch.manual_seed(0)
    theirs = Skip(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)).double()
    ours = manualbp.Residual(*copy.deepcopy(list(theirs)))
    manualbp.set_mode("fast", ours)
    x = torch.randn(1300, 16, dtype=torch.float64, requires_grad=True)
    for memory in ("full", "low"):
        manualbp.set_memory(memory, ours)
        for g, batched in ((torch.randn(1300, 16), False), (torch.randn(3, 1300, 16), True)):
            arms = []
            for net in (ours, theirs):
                o, wanted = net(x), [x, *net.parameters()]
                grads = torch.autograd.grad(o, wanted, g.double(), is_grads_batched=batched)
                arms.append([o, *grads])
            torch.testing.assert_close(*arms, rtol=1e-12, atol=1e-12)


def test_many_tiles() -> None:
    """Sums of 128 tiles, of biases too, are held by float64 as above."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(16, 24), nn.SiLU(), nn.LayerNorm(24), nn.Linear(24, 5))
    x = torch.randn(2**16, 16, requires_grad=True)
    check(ours_of(theirs, "low"), theirs, x, torch.rand(2**16, 5))


def test_exact_mode_never_tiles() -> None:
    """Bit-exact: one sum over all rows."""
    ours, theirs = nets("tanh", "low", torch.float32)
    manualbp.set_mode("exact", ours)
    x, g = torch.randn(1300, 16, requires_grad=True), torch.randn(1300, 5)
    assert unequal(gradients(ours, x, g), gradients(theirs, x, g)) == ""


def test_backward_inside_autocast() -> None:
    """Products of bfloat16, as autograd's are then: 3 % of each tensor's norm, in its dtype."""
    for memory in ("full", "low"):
        found = []
        for net in nets("gelu", memory, torch.float32):
            x = torch.randn(1300, 16, generator=torch.Generator().manual_seed(1))
            output = net(x.requires_grad_()).square().sum()
            with torch.autocast("cpu", torch.bfloat16):
                found.append(torch.autograd.grad(output, [x, *net.parameters()]))
        for a, b in zip(*found, strict=True):
            assert a.dtype is b.dtype and (a - b).norm() < 0.03 * b.norm()


def largest(net: nn.Module, monkeypatch: pytest.MonkeyPatch, wants_x: bool = True) -> int:
    """Rows of the longest product."""
    seen: list[int] = []
    right = Linear.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            Linear, "forward", lambda self, h, *a: seen.append(len(h)) or right(self, h, *a)
        )
        x = torch.randn(1300, 16, dtype=next(net.parameters()).dtype, requires_grad=wants_x)
        net(x).sum().backward()
    return max(seen, default=0)


def test_tiles_run_with_low_memory_and_narrow_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow chains with large activations; 1300 rows of up to 48 columns here."""
    low, full = (nets("tanh", memory, torch.float32)[0] for memory in ("low", "full"))
    assert [largest(net, monkeypatch) for net in (low, full)] == [434, 1300]
    half = ours_of(nets("tanh", "low", torch.bfloat16)[1][:4], "low")  # few digits for a long sum
    assert largest(half, monkeypatch) == 1300
    monkeypatch.setattr(tiles, "LARGE_BYTES", 1300 * 48 * 4)
    assert [largest(full, monkeypatch, wants_x) for wants_x in (True, False)] == [1300, 434]
    monkeypatch.setattr(tiles, "FRESH_BYTES", 1300 * 48 * 4)
    assert largest(full, monkeypatch) == 434
    manualbp.set_mode("exact", full)
    assert largest(full, monkeypatch) == 1300
    manualbp.set_mode("fast", full)
    monkeypatch.setattr(tiles, "WIDEST", 47)
    assert largest(full, monkeypatch) == 1300


@pytest.mark.parametrize("fault", ["tile lost", "half a sum"])
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tile, digits of a sum over tiles."""
    if fault == "tile lost":
        right = tiles.slices
        monkeypatch.setattr(tiles, "slices", lambda n, tile: right(n, tile)[:-1] or right(n, tile))
    else:
        add = tiles.Sums.add
        monkeypatch.setattr(
            tiles.Sums, "add",
            lambda s, grads: add(s, [g if g is None else g.bfloat16().to(g.dtype) for g in grads]),
        )  # fmt: skip
    with pytest.raises((AssertionError, RuntimeError)):
        test_error_against_float64("gelu", "low")
