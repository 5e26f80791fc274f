"""GatedMLP and gated blocks: autograd's bits of down(f(gate(x)) * up(x)) in less memory."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.autograd.gated import Gated
from manualbp.maths.layers import Elementwise, Linear
from manualbp.modules import gated
from tests.helpers import kept_bytes
from tests.maths.test_layers import passed, second, unequal
from tests.modules.test_sequential import make_cotangent, make_input

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(5,), (0, 5), (1, 5), (2, 5), (17, 5), (128, 5), (3, 4, 5), (2, 3, 4, 5)]
ACTS = ["silu", "gelu", "gelu_tanh", "sigmoid"]


class Llama(nn.Module):
    """The block as transformers write it, with the parameters of a GatedMLP."""

    def __init__(self, like: manualbp.GatedMLP) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = copy.deepcopy(
            (like.gate_proj, like.up_proj, like.down_proj, like.act_fn)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class UpFirst(Llama):
    """The other order, by names: autograd adds the gradients of x up the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        gate = self.act_fn(self.gate_proj(x))
        hidden = gate * up
        return self.down_proj(hidden)


def twins(
    activation: str = "silu", bias: bool = True, dtype: torch.dtype = torch.float64, hidden: int = 7
) -> tuple[manualbp.GatedMLP, Llama]:
    model = manualbp.GatedMLP(5, hidden, activation, bias, dtype=dtype)
    return model, Llama(model)


def by_hand(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "GatedBackward"


def sweep(activation: str, dtype: torch.dtype, shapes: list[tuple[int, ...]]) -> list[str]:
    """The configurations in which any bit or stride differs from PyTorch's."""
    torch.manual_seed(0)
    wrong = []
    for shape, bias, hidden, wants_x, cotangent in itertools.product(
        shapes, (True, False), (7, 1), (True, False), ("random", "expanded", "strided")
    ):
        model, twin = twins(activation, bias, dtype, hidden)
        for transposed, create_graph in itertools.product((len(shape) == 2, False), (True, False)):
            x = make_input(shape, dtype, transposed).requires_grad_(wants_x)
            g = make_cotangent(cotangent, x.shape, dtype)
            assert by_hand(model(x))
            if names := unequal(*(passed(net, x, g, create_graph) for net in (model, twin))):
                wrong.append(f"{(shape, bias, hidden, wants_x, cotangent, create_graph)}: {names}")
    return wrong


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTS)
def test_bit_identical(activation: str, dtype: torch.dtype) -> None:
    """Bit-exact, strides included; also under create_graph."""
    assert sweep(activation, dtype, [(5,), (17, 5), (3, 4, 5)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [*ACTS, "relu", "tanh", "elu", "softplus", "hardtanh"])
def test_bit_identical_everywhere(activation: str, dtype: torch.dtype) -> None:
    assert sweep(activation, dtype, SHAPES) == []


COMBINATIONS = list(itertools.product((True, False), repeat=7))


@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
def test_frozen_in_every_combination(activation: str) -> None:
    """Bit-exact, at most PyTorch's memory, None in the second order where PyTorch has None.

    Second and third order: fp64, relative 1e-9, nested sums of at most 7 terms.
    """
    torch.manual_seed(0)
    for wants_x, *flags in COMBINATIONS:
        if not (wants_x or any(flags)):
            continue
        model, twin = twins(activation)
        for net in (model, twin):
            for parameter, flag in zip(net.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
        x = torch.randn(4, 5, dtype=torch.float64, requires_grad=wants_x)
        g = torch.randn(4, 5, dtype=torch.float64)
        assert by_hand(model(x))
        assert unequal(passed(model, x, g), passed(twin, x, g)) == [], (wants_x, flags)
        assert kept_bytes(model, x)[0] <= kept_bytes(twin, x)[0], (wants_x, flags)
        if any((wants_x, flags[0], flags[2], flags[4])):  # else PyTorch has no second order
            for ours, theirs in zip(second(model, x), second(twin, x), strict=True):
                assert (ours is None) == (theirs is None), (wants_x, flags)
                if ours is not None:
                    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation", ACTS)
def test_gradcheck_of_both_orders(activation: str) -> None:
    """PyTorch's own tolerances; with respect to the input and all parameters."""
    torch.manual_seed(0)
    model, _ = twins(activation, hidden=3)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    names, values = zip(*model.named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, named, (x,))

    assert by_hand(function(x, *values))
    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values))


@pytest.mark.parametrize("kind", [Llama, UpFirst])
def test_sums_in_autograds_order(kind: type[Llama]) -> None:
    """Bit-exact where x is read elsewhere as well, and with one weight in all three places."""
    torch.manual_seed(0)
    for tied in (False, True):
        model = manualbp.GatedMLP(16, 16)
        if tied:
            model.up_proj.weight = model.down_proj.weight = model.gate_proj.weight
        twin = kind(model)
        block = manualbp.convert(copy.deepcopy(twin))
        x, found = torch.randn(33, 16, requires_grad=True), []
        for net in (block, twin):
            h = x * 1
            output = net(h)
            assert by_hand(output) == (net is block)
            wanted = [x, *net.parameters()]
            found.append(torch.autograd.grad((output * h.sin()).sum(), wanted))
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours, theirs)


def test_one_child_on_both_sides() -> None:
    """Bit-exact: h * sigmoid(h) reads one result twice and is left alone."""

    class Swish(Llama):
        def forward(self, x: Tensor) -> Tensor:
            h = self.gate_proj(x)
            return self.down_proj(h * torch.sigmoid(h))

    torch.manual_seed(0)
    twin = Swish(manualbp.GatedMLP(5, 7))
    block, x, g = manualbp.convert(copy.deepcopy(twin)), torch.randn(17, 5), torch.randn(17, 5)
    assert unequal(passed(block, x, g), passed(twin, x, g)) == []


def test_memory() -> None:
    """Two hidden activations where PyTorch keeps four with SiLU, three with the sigmoid."""
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    for activation, theirs in (("silu", 4), ("gelu", 4), ("sigmoid", 3)):
        model = manualbp.GatedMLP(8, 64, activation)
        hidden = 32 * 64 * 4
        weights = x.nbytes + model.down_proj.weight.nbytes
        assert kept_bytes(model, x)[0] == weights + 2 * hidden
        assert kept_bytes(Llama(model), x)[0] == weights + theirs * hidden


def test_weights_load_from_a_block() -> None:
    _, twin = twins()
    model = manualbp.GatedMLP(5, 7, bias=True, dtype=torch.float64)
    model.load_state_dict(twin.state_dict())
    x = torch.randn(3, 5, dtype=torch.float64)
    assert torch.equal(model(x), twin(x)) and list(model.state_dict()) == list(twin.state_dict())
    assert torch.equal(torch.jit.script(model)(x), twin(x))
    with pytest.raises(ValueError, match="did you mean 'silu'"):
        manualbp.GatedMLP(5, 7, "silo")


@pytest.mark.parametrize("x", [torch.randn(4, 6), torch.randn(4, 5), torch.tensor(1.0), [1.0]],
                         ids=["width", "dtype", "scalar", "list"])  # fmt: skip
def test_bad_input_raises_as_pytorch(x: object) -> None:
    seen = []
    for net in twins():
        with pytest.raises(Exception) as raised:
            net(x)
        seen.append((raised.type, str(raised.value)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["x", "gate_proj", "up_proj", "down_proj"])
@pytest.mark.parametrize("wants_x", [True, False])
def test_edits_between_forward_and_backward(name: str, wants_x: bool) -> None:
    """Raise where PyTorch's raise, in its words; elsewhere bit-exact.

    All gradients are asked for: a Function looks at all that it kept, whichever is wanted.
    """
    torch.manual_seed(0)
    outcomes, data = [], torch.randn(4, 5, dtype=torch.float64)
    for net in twins():
        x = data.clone().requires_grad_(wants_x)
        h = x * 1
        output = net(h).sum()
        with torch.no_grad():
            (h if name == "x" else net.get_parameter(f"{name}.weight")).mul_(2)
        try:
            wanted = [t for t in (net.up_proj.weight, x, *net.parameters()) if t.requires_grad]
            outcomes.append(torch.autograd.grad(output, wanted)[0])
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            outcomes.append(None)
    ours, theirs = outcomes
    assert (ours is None) == (theirs is None)
    assert ours is None or torch.equal(ours, theirs)


def test_unfrozen_between_forward_and_a_recorded_backward() -> None:
    """What was frozen at forward stays a constant; fp64, relative 1e-12, 3 products."""
    torch.manual_seed(0)
    x, found = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), []
    for net in twins():
        net.requires_grad_(False)
        output = net(x).pow(2).sum()
        net.requires_grad_(True)
        (g,) = torch.autograd.grad(output, x, create_graph=True)
        found.append(torch.autograd.grad(g.pow(2).sum(), net.parameters(), allow_unused=True))
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


# Faults that the tests above must see.


def test_planted_missing_derivative_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """dC/dz without f'."""

    def backward(self, delta, needs, tape, grads, by="kernel", over=False):  # type: ignore[no-untyped-def]
        tape.pop()
        return delta

    monkeypatch.setattr(Elementwise, "backward", backward)
    assert sweep("silu", torch.float64, [(17, 5)])


class Changed:
    """A Function's ctx with other saved tensors."""

    def __init__(self, ctx: object, change: Callable[[Any], tuple[Tensor | None, ...]]) -> None:
        self.ctx, self.change = ctx, change

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.ctx, name)
        return self.change(found) if name == "saved_tensors" else found


def plant(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], tuple[Tensor | None, ...]]
) -> None:
    """Changes what ``Gated.backward`` reads."""
    right = Gated.backward
    monkeypatch.setattr(
        Gated, "backward", staticmethod(lambda ctx, *grads: right(Changed(ctx, change), *grads))
    )


def test_planted_other_side_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of one side multiplied with itself instead of the other: z for u."""
    plant(monkeypatch, lambda kept: (*kept[:-3], kept[-4], *kept[-2:]))  # z, u, a, m come last
    assert sweep("silu", torch.float64, [(17, 5)])


def test_planted_product_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """dC/dW spelled the other way, (h^T delta)^T: equal but for rounding."""
    right = gated.laid_out

    def other(row, thetas, x):  # type: ignore[no-untyped-def]
        return [Linear(layer.h_column_major, True) for layer in right(row, thetas, x)]

    monkeypatch.setattr(gated, "laid_out", other)
    assert sweep("silu", torch.float32, [(17, 5)])


def test_planted_constants_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """u and z kept as numbers: right at first order, wrong at the second."""
    plant(monkeypatch, lambda kept: tuple(t if t is None else t.detach() for t in kept))
    with pytest.raises(RuntimeError):
        test_gradcheck_of_both_orders("silu")


def test_planted_wrong_order_of_sums_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """x_u + x_z handed to autograd in one piece."""
    right = Gated.backward

    def in_one_piece(ctx, *grads):  # type: ignore[no-untyped-def]
        found = list(right(ctx, *grads))
        found[6], found[9] = found[6] + found[9], None
        return tuple(found)

    monkeypatch.setattr(Gated, "backward", staticmethod(in_one_piece))
    with pytest.raises(AssertionError):
        test_sums_in_autograds_order(Llama)
