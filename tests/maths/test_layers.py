"""Dropout and the normalizations inside chains: PyTorch's bits, statistics and random numbers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import manualbp
from comparisons.speed.memory import peak
from manualbp.maths.layers import BatchNorm, Dropout, Elementwise, LayerNorm
from tests.helpers import hand_twin, kept_bytes
from tests.maths.swept import (
    SWEPT,
    PlainResidual,
    around,
    by_hand,
    passed,
    plain,
    second,
    two,
    unequal,
)
from tests.modules.test_sequential import make_cotangent, make_input

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(5,), (0, 5), (1, 5), (2, 5), (17, 5), (128, 5), (3, 4, 5), (2, 3, 4, 5)]


def sweep(kind: str, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """The configurations in which anything differs from PyTorch's."""
    torch.manual_seed(0)
    wrong = []
    flags = itertools.product((True, False), repeat=3)
    for shape, (train, wants_x, residual), cotangent in itertools.product(
        shapes, list(flags), ("random", "expanded", "strided")
    ):
        if kind == "batchnorm" and (len(shape) not in (2, 3) or shape[0] == 1):
            continue
        channels = 8 if len(shape) == 2 else shape[-2] if len(shape) > 2 else 1
        for layer in SWEPT[kind](channels).values():
            twin = (PlainResidual if residual else nn.Sequential)(*around(layer)).to(dtype)
            kind_of_ours = manualbp.Residual if residual else manualbp.Sequential
            model = kind_of_ours(*copy.deepcopy(list(twin)))
            x = make_input(shape, dtype, len(shape) == 2).requires_grad_(wants_x)
            g = make_cotangent(cotangent, x.shape, dtype)
            create_graph = cotangent == "strided"
            found = [passed(net.train(train), x, g, create_graph) for net in (model, twin)]
            if names := unequal(*found):
                wrong.append(f"{(shape, train, wants_x, residual, cotangent, layer)}: {names}")
    return wrong


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SWEPT)
def test_bit_identical(kind: str, dtype: torch.dtype) -> None:
    """Bit-exact, statistics, strides and the generator included; also under create_graph."""
    assert sweep(kind, dtype, [(5,), (2, 5), (17, 5), (3, 4, 5)]) == []


@pytest.mark.usefixtures("written_over")
@pytest.mark.parametrize("kind", SWEPT)
def test_bit_identical_where_deltas_are_written_over(kind: str) -> None:
    assert sweep(kind, torch.float32, [(5,), (2, 5), (17, 5), (3, 4, 5)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SWEPT)
def test_bit_identical_everywhere(kind: str, dtype: torch.dtype) -> None:
    assert sweep(kind, dtype, SHAPES) == []


@pytest.mark.parametrize("kind", ["layernorm", "batchnorm"])
def test_planted_faults_in_what_runs_are_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep must see the formula in the place of the kernel: equal but for rounding."""
    owner = LayerNorm if kind == "layernorm" else BatchNorm
    right = owner.backward

    def by_formula(self, delta, needs, tape, grads, by, over):  # type: ignore[no-untyped-def]
        return right(self, delta, needs, tape, grads, "formula", over)

    monkeypatch.setattr(owner, "backward", by_formula)
    assert sweep(kind, torch.float32, [(17, 5)])


def test_planted_dropout_without_its_scale_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unscaled(self, delta, needs, tape, grads, by, over):  # type: ignore[no-untyped-def]
        return delta * tape.pop().to(delta.dtype)

    monkeypatch.setattr(Dropout, "backward", unscaled)
    assert sweep("dropout", torch.float64, [(17, 5)])


@pytest.mark.parametrize("kind", SWEPT)
def test_runs_by_hand(kind: str) -> None:
    """In one Function, residual included; RMSNorm not in half precision, and not first."""
    for layer in two(kind):
        model = manualbp.Residual(*around(layer))
        assert by_hand(model(torch.randn(4, 5)))
        half = model.bfloat16()(torch.randn(4, 5, dtype=torch.bfloat16))
        assert by_hand(half) == (kind != "rmsnorm")
        model = manualbp.Sequential(layer, nn.Linear(8, 8)).float()
        assert manualbp.explain(model)[0].detail.startswith("1" if kind == "rmsnorm" else "2")


def test_batchnorm_counts_as_pytorch() -> None:
    """Bit-exact over five steps; momentum None averages over all batches so far."""
    torch.manual_seed(0)
    for momentum, shape in itertools.product((0.1, None, 0.0, 1.0), ((6, 5), (6, 3, 5))):
        features = 8 if len(shape) == 2 else 3
        twin = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(features, momentum=momentum))
        model = manualbp.Sequential(*copy.deepcopy(list(twin)))
        for _ in range(5):
            x = torch.randn(shape)
            assert by_hand(model(x)) and twin(x).requires_grad
        for name, buffer in twin.named_buffers():
            assert torch.equal(buffer, model.get_buffer(name)), name
        assert int(model[1].num_batches_tracked) == 5


FROZEN = list(itertools.product((True, False), repeat=4))


@pytest.mark.parametrize("kind", SWEPT)
def test_frozen_in_every_combination(kind: str) -> None:
    """Bit-exact, at most PyTorch's memory; None in the second order where PyTorch has None.

    Second order: fp64, relative 1e-9, three nested recursions.
    """
    torch.manual_seed(0)
    layer = plain(kind)
    for wants_x, *flags in FROZEN:
        twin = nn.Sequential(*around(copy.deepcopy(layer))).double()
        for i, flag in zip((0, 2, 3), flags, strict=True):
            twin[i].requires_grad_(flag)
        if not (wants_x or any(flags[::2]) or (flags[1] and kind != "dropout")):
            continue
        model = manualbp.Sequential(*copy.deepcopy(list(twin)))
        x = torch.randn(7, 5, dtype=torch.float64, requires_grad=wants_x)
        g = torch.randn(7, 5, dtype=torch.float64)
        assert unequal(passed(model, x, g), passed(twin, x, g)) == []
        assert kept_bytes(model, x)[0] <= kept_bytes(twin, x)[0]
        for ours, theirs in zip(second(model, x), second(twin, x), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_memory_is_below_pytorchs() -> None:
    """Dropout keeps a byte where PyTorch keeps a number, RMSNorm h and r instead of three."""
    torch.manual_seed(0)
    x = torch.randn(64, 32)
    for layer, at_most in ((nn.Dropout(), 0.75), (nn.RMSNorm(32), 0.75), (nn.LayerNorm(32), 1.0),
                           (nn.BatchNorm1d(32), 1.0)):  # fmt: skip
        twin = nn.Sequential(nn.Linear(32, 32), layer, nn.Linear(32, 32))
        model = manualbp.Sequential(*twin)
        activations = kept_bytes(model, x)[0] - x.nbytes, kept_bytes(twin, x)[0] - x.nbytes
        assert activations[0] <= at_most * activations[1], layer


@pytest.mark.usefixtures("deltas")
@pytest.mark.parametrize("kind", SWEPT)
def test_input_that_is_read_elsewhere(kind: str) -> None:
    """Bit-exact: autograd adds the gradients of x one by one, in its order."""
    torch.manual_seed(0)
    for layer in SWEPT[kind](8).values():
        first = [copy.deepcopy(layer), nn.Linear(8, 8), nn.Tanh()]
        for children, width in ((around(layer), 5), (first, 8)):
            net = PlainResidual(*children)
            x = torch.randn(17, width, requires_grad=True)
            found = []
            for f in (manualbp.Residual(*copy.deepcopy(children)), net):
                torch.manual_seed(1)
                h = x * 1
                found.append(torch.autograd.grad((f(h) * h.sin()).sum(), x)[0])
            assert torch.equal(*found), layer


@pytest.mark.usefixtures("written_over")
@pytest.mark.parametrize("kind", ["dropout", "layernorm", "batchnorm"])
def test_planted_writing_over_the_callers_delta_is_caught(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Elementwise.backward

    def always(self, delta, needs, tape, grads, by, over):  # type: ignore[no-untyped-def]
        return right(self, delta, needs, tape, grads, by, True)

    monkeypatch.setattr(Elementwise, "backward", always)
    with pytest.raises(AssertionError):
        test_input_that_is_read_elsewhere(kind)


@pytest.mark.usefixtures("deltas")
@pytest.mark.parametrize("act", [nn.ELU, nn.SELU, nn.LeakyReLU, nn.SiLU, nn.Hardtanh, nn.ReLU])
def test_activations_in_place(act: type[nn.Module]) -> None:
    """Bit-exact and at most PyTorch's memory, though some then read a instead of z."""
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(5, 8), act(inplace=True), nn.Linear(8, 5))
    twin = nn.Sequential(*twin, act(inplace=True))
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    for shape in ((17, 5), (7, 9, 5), (2, 17, 3, 5)):
        x, g = torch.randn(shape), make_cotangent("strided", torch.Size(shape), torch.float32)
        for create_graph in (False, True, False):
            model.append(nn.Dropout(inplace=True).eval())  # does nothing
            found = [passed(net, x, g, create_graph) for net in (model, twin)]
            assert unequal(*found) == []
        assert kept_bytes(model, x)[0] <= kept_bytes(twin, x)[0]


def test_rmsnorm_of_one_feature() -> None:
    """Bit-exact, the signs of zeros as well."""
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(5, 1), nn.RMSNorm(1), nn.ReLU(), nn.Linear(1, 5))
    model, x = manualbp.Sequential(*copy.deepcopy(list(twin))), torch.randn(64, 5)
    g = torch.randn(64, 5).requires_grad_()
    found = [passed(net, x.requires_grad_(), g.detach()) for net in (model, twin)]
    assert unequal(*found) == []


def test_batched_cotangents_and_hooks_on_what_is_kept() -> None:
    """is_grads_batched to rounding (batched products, fp64); saved-tensor hooks bit-exact."""
    torch.manual_seed(0)
    for kind in SWEPT:
        twin = nn.Sequential(*around(plain(kind))).double()
        model = manualbp.Sequential(*copy.deepcopy(list(twin)))
        x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
        cotangents, found = torch.randn(3, 4, 5, dtype=torch.float64), []
        for net in (model, twin):
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
                torch.manual_seed(1)
                output = net(x)
            (h,) = torch.autograd.grad(output, x, cotangents, is_grads_batched=True,
                                       retain_graph=True)  # fmt: skip
            (g,) = torch.autograd.grad(output, x, cotangents[0])
            found.append((h, g))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-14)
        assert torch.equal(found[0][1], found[1][1]), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rms_norm_needs_no_more_memory_at_the_peak(dtype: torch.dtype) -> None:
    """Than autograd, beyond 5 % of an activation: parameters and numbers of a row each."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(16, 256), nn.RMSNorm(256), nn.Linear(256, 16)).to(dtype)
    x, peaks = torch.randn(2048, 16, dtype=dtype), []
    for net in (hand_twin(theirs), theirs):
        net(x).sum().backward()  # also warms up
        net.zero_grad()
        peaks.append(peak(lambda net=net: net(x).sum().backward(), x.device))  # type: ignore[misc]
    assert peaks[0] <= peaks[1] + 0.05 * x.nbytes * 16
