"""Layers in pairs: the bits of the plain layers wherever ATen's routines run both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from manualbp.fast.gpu import choice, kernels, pairs, products
from manualbp.fast.gpu.pairs import PairedLinear
from manualbp.maths import backprop
from manualbp.maths.activations import ACTIVATIONS
from manualbp.maths.layers import BatchNorm, Dropout, Elementwise, Layer, LayerNorm, Linear, Theta
from manualbp.modules.stretch import laid_out
from tests.dropin.nets import unequal

DTYPES = [torch.float64, torch.float32]
WIDTH = 4  # of all layers, so that a transposed gradient has the right shape
# F is the activation, G another one.
CHAINS = ["LFLFL", "LFLF", "FLFL", "FL", "F", "L", "LL", "LFGL", "FGLFG", "LLFLLF", "NLFNLF",
          "LNFLNF", "LBFL", "LFBFL", "LFDLF", "DLFDL"]  # fmt: skip


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU where ATen's routines run everything."""
    monkeypatch.setattr(kernels, "takes", lambda x: True)
    monkeypatch.setattr(choice, "prefers_kernel", lambda step: False)


def layers(
    letters: str, f: str, dtype: torch.dtype, bias: bool = True
) -> list[tuple[Layer, Theta]]:
    """A layer and its parameters for each letter."""
    other = "gelu" if ACTIVATIONS[f].needs == "a" else "tanh"
    found: list[tuple[Layer, Theta]] = []
    for letter in letters:
        weight, vector = torch.randn(WIDTH, WIDTH, dtype=dtype), torch.randn(WIDTH, dtype=dtype)
        theta = (weight, vector if bias else None)
        found.append({
            "L": (Linear(), theta), "F": (Elementwise(ACTIVATIONS[f]), ()),
            "G": (Elementwise(ACTIVATIONS[other]), ()), "D": (Dropout(0.5), ()),
            "N": (LayerNorm((WIDTH,), 1e-5), (vector, vector + 1)),
            "B": (BatchNorm(None, None, None, True, 0.1, 1e-5), (vector, vector + 1)),
        }[letter])  # fmt: skip
    return found


def differences(
    letters: str, f: str, shape: tuple[int, ...] = (5, WIDTH), dtype: torch.dtype = torch.float64,
    wants: Callable[[int], bool] = lambda i: True, injected_at: Sequence[int] = (-1,),
    bias: bool = True,
) -> list[str]:  # fmt: skip
    """What is not bit for bit the plain layers': o, the tape, gradients from either's tape.

    ``wants`` says of x (0) and of every parameter, counted from 1, whether a gradient is wanted.
    """
    torch.manual_seed(0)
    chain, thetas = zip(*layers(letters, f, dtype, bias), strict=True)
    x, count = torch.randn(shape, dtype=dtype), itertools.count(1)
    flags = [tuple([t is not None and wants(next(count)) for t in theta]) for theta in thetas]
    input = wants(0)
    plain = backprop.steps(chain, thetas, flags, input)
    paired = backprop.steps(pairs.paired(chain, thetas), thetas, flags, input)
    found = []
    for steps in (paired, plain):
        torch.manual_seed(1)
        found.append(backprop.forward(x, steps))
    (o, tape), (expected_o, expected_tape) = found
    wrong = ["o"] if unequal([o], [expected_o]) else []
    wrong += ["tape"] if unequal(tape, expected_tape) else []
    incoming = {range(len(chain))[i]: torch.randn(shape, dtype=dtype) for i in injected_at}
    before = [t.clone() for t in incoming.values()]
    with torch.no_grad():
        expected = backprop.backward(None, plain, list(expected_tape), injected=incoming)
        for over in (False, True):
            for whose, its in (("own", tape), ("the plain layers'", expected_tape)):
                got = backprop.backward(None, paired, list(its), "kernel", over, incoming)
                if unequal(flat(got), flat(expected)):
                    wrong.append(f"gradients from {whose} tape")
        back = backprop.backward(None, plain, list(tape), injected=incoming)
    wrong += ["plain gradients from the pairs' tape"] if unequal(flat(back), flat(expected)) else []
    after = list(incoming.values())
    return wrong + (["what came in was written over"] if unequal(after, before) else [])


def flat(found: backprop.Gradients) -> list[Tensor | None]:
    return [found.input, *found.thetas]


@pytest.mark.parametrize("letters", CHAINS)
@pytest.mark.parametrize("f", ACTIVATIONS)
def test_every_chain(letters: str, f: str) -> None:
    """Bit-exact, float64 and float32."""
    for dtype in DTYPES:
        assert differences(letters, f, dtype=dtype) == []


SHAPES = [(4,), (2, 3, 4), (2, 1, 3, 4), (0, 4), (2, 0, 4), (1, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("letters", ["LFLFL", "FLFL", "LFGLF", "NLFNLF"])
def test_every_shape(letters: str, shape: tuple[int, ...]) -> None:
    """Bit-exact."""
    for f, dtype in itertools.product(("relu", "tanh", "gelu", "silu"), DTYPES):
        assert differences(letters, f, shape, dtype) == []


@pytest.mark.parametrize("f", ["tanh", "gelu"])
@pytest.mark.parametrize("letters", ["LFLFL", "FLLFLF", "NLFLNFL"])
def test_needs(letters: str, f: str) -> None:
    """Bit-exact, and None in the same places: each wanted alone, each one not, and at random."""
    inputs = 1 + 2 * sum(letter in "LN" for letter in letters)
    draw = torch.Generator().manual_seed(0)
    masks = [torch.rand(inputs, generator=draw) < 0.5 for _ in range(20)]
    masks += [m for row in torch.eye(inputs).bool() for m in (row, ~row)]
    for mask in [*masks, torch.zeros(inputs).bool()]:
        assert differences(letters, f, wants=lambda i, m=mask: bool(m[i])) == []


@pytest.mark.parametrize("f", ["tanh", "gelu"])
@pytest.mark.parametrize("letters", ["LFLFL", "FLFLLF", "LFGLFDL"])
def test_gradients_that_come_in_at_hidden_layers(letters: str, f: str) -> None:
    """Bit-exact: each layer alone, each beside o, all, and none at all."""
    n = len(letters)
    for at in [*[(i,) for i in range(n)], *[(i, n - 1) for i in range(n)], range(n), ()]:
        assert differences(letters, f, (2, 3, WIDTH), injected_at=at) == []
        assert differences(letters, f, wants=lambda i: i % 2 == 0, injected_at=at) == []


def test_without_bias() -> None:
    """Bit-exact."""
    for letters, f in itertools.product(CHAINS, ("relu", "silu")):
        assert differences(letters, f, bias=False) == []


@pytest.mark.parametrize("which", ["x", "weights", "both"])
def test_other_layouts(which: str) -> None:
    """fp64, 1e-13: backprop spells some products as autograd would, and rounds otherwise."""
    torch.manual_seed(0)
    chain, thetas = zip(*layers("FLFLF", "gelu", torch.float64), strict=True)
    if which != "x":
        thetas = [(t[0].t().contiguous().t(), t[1]) if t else () for t in thetas]
    x = torch.randn(WIDTH, 7, dtype=torch.float64).t() if which != "weights" else torch.randn(
        7, WIDTH, dtype=torch.float64
    )  # fmt: skip
    delta = torch.randn(WIDTH, 7, dtype=torch.float64).t()
    found = []
    with torch.no_grad():
        for built in (pairs.paired(chain, thetas), laid_out(chain, thetas, x)):
            steps = backprop.steps(built, thetas)
            o, tape = backprop.forward(x, steps)
            found.append([o, *flat(backprop.backward(delta, steps, tape))])
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("f", ACTIVATIONS)
def test_pairs_are_one_step(f: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ways up in one step, two ways down, and the sums of both that a bias is behind."""
    seen: list[str] = []
    for name in ("activated", "activated_input_gradient"):
        right = getattr(products, name)

        def spy(*args: object, name: str = name, right: object = right, **kw: object) -> object:
            seen.append(f"{name} {kw.get('keep', args[-1])}")
            return right(*args, **kw)  # type: ignore[operator]

        monkeypatch.setattr(products, name, spy)
    assert differences("LFLFLF", f) == []
    by_z = ACTIVATIONS[f].needs == "z"
    down = "activated_input_gradient True"
    # Down from either's tape, with and without writing over delta.
    assert seen == [*[f"activated {by_z}"] * 3, *[down] * 8]


def _sums_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = products.activated_input_gradient

    def wrong(*args: object) -> tuple[Tensor, Tensor | None]:
        below, sums = right(*args)  # type: ignore[arg-type]
        return below, None if sums is None else torch.zeros_like(sums)

    monkeypatch.setattr(products, "activated_input_gradient", wrong)


def _sums_before_what_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """dC/db without the gradient that comes in at the layer itself."""
    monkeypatch.setattr(
        pairs.Summed, "__add__", lambda s, other: pairs.Summed(s.delta + other, s.sums)
    )


def _a_where_z_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    right = products.activated

    def wrong(*args: object, keep: bool) -> tuple[Tensor, Tensor | None]:
        a, _ = right(*args, keep=keep)  # type: ignore[arg-type]
        return a, a if keep else None

    monkeypatch.setattr(products, "activated", wrong)


def _transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = products.activated_input_gradient
    monkeypatch.setattr(
        products, "activated_input_gradient", lambda g, w, *rest: right(g, w.t(), *rest)
    )


def _a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PairedLinear.backward

    def wrong(self, delta, needs, tape, grads, *how):  # type: ignore[no-untyped-def]
        found = right(self, delta, needs, tape, grads, *how)
        grads[-1] = None if grads[-1] is None else grads[-1] * (1 + 2**-50)
        return found

    monkeypatch.setattr(PairedLinear, "backward", wrong)


def _written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PairedLinear.backward

    def wrong(self, delta, *rest):  # type: ignore[no-untyped-def]
        found = right(self, delta, *rest)
        if isinstance(delta, Tensor):
            delta.mul_(1 + 2**-50)
        return found

    monkeypatch.setattr(PairedLinear, "backward", wrong)


FAULTS = [_sums_lost, _sums_before_what_comes_in, _a_where_z_is_read, _transposed, _a_bit,
          _written_over]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differences("LFLFLFL", "silu") + differences("LFLFL", "silu", injected_at=(0, 4)) == []
    fault(monkeypatch)
    assert differences("LFLFLFL", "silu") + differences("LFLFL", "silu", injected_at=(0, 4)) != []
