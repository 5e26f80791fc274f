"""Dropout and the normalizations inside chains: PyTorch's bits, statistics and random numbers."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import manualbp
from comparisons.speed.memory import peak
from manualbp.maths import layers
from manualbp.maths.layers import BatchNorm, Dropout, Layer, LayerNorm, Needs, RMSNorm, norms
from manualbp.parity.bits import bit_identical
from tests.helpers import hand_twin, kept_bytes
from tests.modules.test_sequential import make_cotangent, make_input

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(5,), (0, 5), (1, 5), (2, 5), (17, 5), (128, 5), (3, 4, 5), (2, 3, 4, 5)]
SWEPT: dict[str, Callable[[int], list[nn.Module]]] = {
    "dropout": lambda c: [nn.Dropout(0.5), nn.Dropout(0.1), nn.Dropout(0), nn.Dropout(1)],
    "layernorm": lambda c: [
        nn.LayerNorm(8), nn.LayerNorm(8, 0.3, bias=False), nn.LayerNorm(8, 0.0, False)
    ],
    "rmsnorm": lambda c: [
        nn.RMSNorm(8), nn.RMSNorm(8, 0.3), nn.RMSNorm(8, elementwise_affine=False),
    ],
    "batchnorm": lambda c: [
        nn.BatchNorm1d(c), nn.BatchNorm1d(c, 0.3, None), nn.BatchNorm1d(c, affine=False),
        nn.BatchNorm1d(c, momentum=0.9, track_running_stats=False),
    ],
}  # fmt: skip


class PlainResidual(nn.Sequential):
    """What ``Residual`` stands for."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def around(layer: nn.Module) -> list[nn.Module]:
    """The layer between two products, where it gets and gives gradients, and at the end."""
    first, last = nn.Linear(5, 8), nn.Linear(8, 5)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return [first, nn.Tanh(), layer, last]


def passed(
    net: nn.Module, x: Tensor, cotangent: Tensor, create_graph: bool = False
) -> dict[str, Tensor | None]:
    """Output, gradients, buffers and what the generator would draw next."""
    x = x.detach().requires_grad_(x.requires_grad)
    torch.manual_seed(1)
    output = net(x)
    wanted = {"input": x, **dict(net.named_parameters())}
    wanted = {name: t for name, t in wanted.items() if t.requires_grad}
    found = torch.autograd.grad(
        output, list(wanted.values()), cotangent, create_graph=create_graph, allow_unused=True
    )
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    grads = {n: g if g is None else g.detach() for n, g in zip(wanted, found, strict=True)}
    return {"output": output.detach(), **grads, **buffers, "next": torch.rand(3)}


def unequal(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> list[str]:
    """What differs in a bit or a stride."""
    return [
        name
        for name, t in theirs.items()
        if (t is None) != ((o := ours[name]) is None)
        or not (t is None or o is None or (bit_identical(o, t) and o.stride() == t.stride()))
    ]


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
        for layer in SWEPT[kind](8 if len(shape) == 2 else shape[-2] if len(shape) > 2 else 1):
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SWEPT)
def test_bit_identical_everywhere(kind: str, dtype: torch.dtype) -> None:
    assert sweep(kind, dtype, SHAPES) == []


def by_hand(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "ChainBackward"


@pytest.mark.parametrize("kind", SWEPT)
def test_runs_by_hand(kind: str) -> None:
    """In one Function, residual included; RMSNorm not in half precision, and not first."""
    for layer in SWEPT[kind](8)[:2]:
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
    layer = SWEPT[kind](8)[0]
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


def second(net: nn.Module, x: Tensor) -> list[Tensor | None]:
    x = x.detach().requires_grad_(x.requires_grad)
    wanted = [t for t in (x, *net.parameters()) if t.requires_grad]
    torch.manual_seed(1)
    first = torch.autograd.grad(net(x).pow(2).sum(), wanted, create_graph=True)
    penalty = sum(g.pow(2).sum() for g in first)
    found = torch.autograd.grad(penalty, wanted, create_graph=True, allow_unused=True)
    third = sum(g.pow(2).sum() for g in found if g is not None)
    return [*found, *torch.autograd.grad(third, wanted, allow_unused=True)]


# The layers as plain functions: formula against backward, with faults planted in them.


def alone(kind: str, shape: tuple[int, ...], train: bool = True) -> list[tuple[Layer, tuple]]:
    """Layers of a kind with random parameters, and the theta of each."""
    torch.manual_seed(0)
    found = []
    for module in SWEPT[kind](shape[1]):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data = torch.rand_like(tensor, dtype=torch.float64) + 0.5
        layer, theta = layers.from_module(module.train(train)) or (None, ())
        if layer is not None:
            found.append((layer, theta))
    return found


def worst(kind: str, shape: tuple[int, ...], train: bool) -> float:
    """Largest difference of the formula from the kernel, relative to each tensor's largest."""
    error = 0.0
    for layer, theta in alone(kind, shape, train):
        h, delta = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
        needs = Needs(True, tuple(t is not None for t in theta))
        with torch.no_grad():
            tape: list[Tensor | None] = []
            layer.forward(h, theta, needs, tape)
            assert len(tape) == layer.keeps
            found = []
            for by in ("formula", "kernel"):
                grads: list[Tensor | None] = []
                grad_h = layer.backward(delta, needs, list(tape), grads, by)
                found.append([grad_h, *grads])
            for a, b in zip(*found, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    error = max(error, float((a - b).abs().max() / b.abs().max()))
    return error


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", SWEPT)
def test_formula_is_backward_to_rounding(kind: str, train: bool) -> None:
    """1e-13: fp64, sums of at most 96 terms of order 1."""
    for shape in ((12, 8), (4, 8, 8)):
        assert worst(kind, shape, train) < 1e-13
    if kind in ("layernorm", "rmsnorm"):
        assert worst(kind, (3, 8, 2, 8), train) < 1e-13


def _without_xhat(delta, xhat, r, gamma, over, rows, needs, centred=True):  # type: ignore[no-untyped-def]
    g = delta if gamma is None else delta * gamma
    h = r * (g - g.mean(over, keepdim=True)) if over and centred else r * g
    return h, (delta * xhat).sum(rows), delta.sum(rows)


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm", "batchnorm"])
def test_planted_missing_xhat_term_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "formula", _without_xhat)
    monkeypatch.setattr(layers.batch_norm, "formula", _without_xhat)
    with pytest.raises(AssertionError):
        test_formula_is_backward_to_rounding(kind, True)


@pytest.mark.parametrize("kind", ["layernorm", "batchnorm"])
def test_planted_missing_mean_term_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = norms.formula

    def without_mean(*args, centred=True):  # type: ignore[no-untyped-def]
        return right(*args, centred=False)

    monkeypatch.setattr(norms, "formula", without_mean)
    monkeypatch.setattr(layers.batch_norm, "formula", without_mean)
    with pytest.raises(AssertionError):
        test_formula_is_backward_to_rounding(kind, True)


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
def test_gradcheck_of_both_orders(kind: str) -> None:
    """PyTorch's own tolerances, input and parameters; the same mask at every call."""
    for layer in SWEPT[kind](8)[:2]:
        torch.manual_seed(0)
        model = manualbp.Residual(*around(layer)).double()
        x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        names, values = zip(*model.named_parameters(), strict=True)

        def function(x: Tensor, *parameters: Tensor, net=model, names=names) -> Tensor:
            torch.manual_seed(1)
            named = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(net, named, (x,))

        assert by_hand(function(x, *values))
        assert torch.autograd.gradcheck(function, (x, *values))
        assert torch.autograd.gradgradcheck(function, (x, *values))


def test_planted_constant_r_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm's r kept as a number: right at first order, wrong at the second."""
    right = RMSNorm.backward

    def constant(self, delta, needs, tape, grads, by, over):  # type: ignore[no-untyped-def]
        frozen, r = dataclasses.replace(self), tape[-1]
        object.__setattr__(frozen, "_r", lambda h: r)
        return right(frozen, delta, needs, tape, grads, by, over)

    monkeypatch.setattr(RMSNorm, "backward", constant)
    with pytest.raises(RuntimeError):  # GradcheckError is one
        test_gradcheck_of_both_orders("rmsnorm")


@pytest.mark.usefixtures("r_operator")
def test_dropout_in_an_r_operator() -> None:
    test_gradcheck_of_both_orders("dropout")


@pytest.mark.usefixtures("r_operator")
def test_planted_missing_dropout_tangent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dropout, "double_backward", lambda self, *args: (None, (None,)))
    with pytest.raises((RuntimeError, AssertionError)):
        test_gradcheck_of_both_orders("dropout")


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


EDITS = ["0.weight", "2.weight", "2.bias", "3.weight", "2.running_mean", "2.running_var"]


@pytest.mark.parametrize("kind", SWEPT)
@pytest.mark.parametrize("wants_x", [True, False])
def test_edits_between_forward_and_backward(kind: str, wants_x: bool) -> None:
    """Raise where PyTorch's raise, in its words; elsewhere bit-exact."""
    torch.manual_seed(0)
    twin = nn.Sequential(*around(SWEPT[kind](8)[0]))
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    named = {*dict(twin.named_parameters()), *dict(twin.named_buffers())}
    for name in [edit for edit in EDITS if edit in named]:
        outcomes = []
        for net in (model, twin):
            x = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
            x.requires_grad_(wants_x)
            torch.manual_seed(1)
            output = net(x).sum()
            with torch.no_grad():
                {**dict(net.named_parameters()), **dict(net.named_buffers())}[name].mul_(2)
            try:
                outcomes.append(torch.autograd.grad(output, net[0].weight)[0])
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)
                outcomes.append(None)
        ours, theirs = outcomes
        assert (ours is None) == (theirs is None), name
        assert ours is None or torch.equal(ours, theirs), name


BAD: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "one value": (lambda: [nn.BatchNorm1d(8)], (1, 5)),
    "no batch": (lambda: [nn.BatchNorm1d(8)], (5,)),
    "four dimensions": (lambda: [nn.BatchNorm1d(3)], (2, 3, 4, 5)),
    "features": (lambda: [nn.BatchNorm1d(7)], (4, 5)),
    "eps": (lambda: [nn.BatchNorm1d(8, eps=0)], (4, 5)),
    "layernorm": (lambda: [nn.LayerNorm(7)], (4, 5)),
    "rmsnorm": (lambda: [nn.RMSNorm(7)], (4, 5)),
    "weight": (lambda: [changed(nn.RMSNorm(8), weight=nn.Parameter(torch.ones(1)))], (4, 5)),
    "gamma": (lambda: [changed(nn.LayerNorm(8), weight=nn.Parameter(torch.ones(1)))], (4, 5)),
    "p": (lambda: [changed(nn.Dropout(), p=1.5)], (4, 5)),
    "in place": (lambda: [nn.LeakyReLU(-0.5, inplace=True)], (4, 5)),
}


def changed(module: nn.Module, **attributes: object) -> nn.Module:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_as_pytorch(case: str) -> None:
    children, shape = BAD[case]
    seen = []
    for kind in (manualbp.Sequential, nn.Sequential):
        with pytest.raises(Exception) as raised:
            kind(nn.Linear(5, 8), *children())(torch.randn(shape)).sum().backward()
        seen.append((raised.type, str(raised.value)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", SWEPT)
def test_input_that_is_read_elsewhere(kind: str) -> None:
    """Bit-exact: autograd adds the gradients of x one by one, in its order."""
    torch.manual_seed(0)
    for layer in SWEPT[kind](8):
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
    for kind, make in SWEPT.items():
        twin = nn.Sequential(*around(make(8)[0])).double()
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
