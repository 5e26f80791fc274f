"""What waits for backward, in bytes: in no network more than autograd keeps."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import manualbp
from comparisons.speed.memory import peak
from manualbp.maths.layers import Linear, RMSNorm
from manualbp.maths.layers.elementwise import WORTH_IT
from tests.dropin.nets import Gate, Skip, Unknown
from tests.helpers import hand_twin, kept_bytes

Activations = list[Callable[[], nn.Module]]
SOME: Activations = [nn.Tanh, nn.GELU, lambda: nn.ELU(inplace=True)]
OTHERS: Activations = [
    nn.Identity, nn.ReLU, nn.Softplus, nn.LeakyReLU, nn.ELU, nn.SELU, nn.SiLU, Unknown, nn.Sigmoid,
    lambda: nn.GELU(approximate="tanh"), nn.Hardtanh,
    lambda: nn.ReLU(inplace=True), lambda: nn.Hardtanh(inplace=True), lambda: nn.SiLU(inplace=True),
]  # fmt: skip
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda n: nn.Identity(),
    "layernorm": nn.LayerNorm,
    "plain layernorm": lambda n: nn.LayerNorm(n, elementwise_affine=False),
    "rmsnorm": nn.RMSNorm,
    "batchnorm": nn.BatchNorm1d,
    "batchnorm in evaluation": lambda n: nn.BatchNorm1d(n).eval(),
}
FROZEN: dict[str, Callable[[str, int], bool]] = {
    "none": lambda name, dim: False,
    "first layer": lambda name, dim: name.startswith(("0.", "1.")),
    "last layer": lambda name, dim: name.startswith("5."),
    "weights": lambda name, dim: dim == 2,
    "vectors": lambda name, dim: dim == 1,
    "all": lambda name, dim: True,
}


def family(
    norm: str, activations: Activations
) -> Iterator[tuple[str, nn.Module, nn.Module, Tensor]]:
    """Networks of one normalization in every place, with all that can be combined with it."""
    for make, drop, place, frozen, wants_x, residual in itertools.product(
        activations, (0.0, 0.5), ("first", "before f", "after f"), FROZEN, (True, False),
        (True, False),
    ):  # fmt: skip
        if norm == "none" and place != "first":
            continue
        normed = NORMS[norm]
        middle = [make(), nn.Dropout(drop)]
        if place != "first":
            middle.insert(0 if place == "before f" else 2, normed(12))
        start = normed(8) if place == "first" else nn.Identity()
        theirs = (Skip if residual else nn.Sequential)(
            start, nn.Linear(8, 12), *middle, nn.Linear(12, 8)
        )
        for name, p in theirs.named_parameters():
            p.requires_grad_(not FROZEN[frozen](name, p.dim()))
        ours = (manualbp.Residual if residual else manualbp.Sequential)(*theirs)
        x = torch.randn(64, 8, requires_grad=wants_x)
        name = f"{middle} {place} {frozen=} {wants_x=} {residual=}"
        yield name, ours, theirs, x


def above(norm: str, activations: Activations) -> list[str]:
    """The networks that keep more than autograd does, or are trained where it is not."""
    found = []
    for name, ours, theirs, x in family(norm, activations):
        try:
            expected = kept_bytes(theirs, x)
        except RuntimeError:  # PyTorch refuses an in-place activation on a frozen leaf
            continue
        kept = kept_bytes(ours, x)
        if any(a > b for a, b in zip(kept, expected, strict=True)):
            found.append(f"{name}: {kept} above {expected}")
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_keeps_no_more_than_autograd(norm: str) -> None:
    """In all, and of what it made itself (the input and the parameters stay anyway)."""
    assert above(norm, [*SOME, *OTHERS] if norm == "none" else SOME) == []


@pytest.mark.slow
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "none"])
def test_keeps_no_more_whatever_the_activation(norm: str) -> None:
    assert above(norm, OTHERS) == []


def test_planted_waste_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """r kept where nobody reads it."""
    right = RMSNorm.forward

    def wasteful(self, h, theta, needs, tape):  # type: ignore[no-untyped-def]
        a = right(self, h, theta, needs, tape)
        tape[-1] = self._r(h) if needs else None
        return a

    monkeypatch.setattr(RMSNorm, "forward", wasteful)
    assert above("rmsnorm", [nn.Tanh])


@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize("numbers", [WORTH_IT // 8, WORTH_IT], ids=["small", "written over"])
def test_a_delta_goes_once_it_is_used(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the one at work, the caller's alone is there: as in autograd."""
    found: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    came: list[int] = []
    went: list[int] = []
    right = Linear.backward

    def spy(self, delta, *args):  # type: ignore[no-untyped-def]
        found.append(weakref.ref(delta))
        alive.append(sum(ref() is not None for ref in found))
        grad_h = right(self, delta, *args)
        came.append(delta.data_ptr())
        went.append(0 if grad_h is None else grad_h.data_ptr())
        return grad_h

    monkeypatch.setattr(Linear, "backward", spy)
    manualbp.MLP([8] * 6, "gelu")(torch.randn(numbers // 8, 8)).sum().backward()
    assert alive == [1, 2, 2, 2, 2]
    assert (came[1:] == went[:-1]) == (numbers >= WORTH_IT)  # gelu' times delta in its place


@pytest.mark.parametrize("activation", ["silu", "gelu", "tanh", "relu", "sigmoid"])
def test_gated_keeps_no_more_than_autograd(activation: str) -> None:
    """With any of its projections frozen."""
    for frozen, wants_x, bias in itertools.product(
        ("none", "gate_proj", "up_proj", "down_proj", "all"), (True, False), (True, False)
    ):
        ours = manualbp.GatedMLP(8, 12, activation, bias=bias)
        for name, p in ours.named_parameters():
            p.requires_grad_(not (frozen == "all" or name.startswith(frozen)))
        x = torch.randn(64, 8, requires_grad=wants_x)
        kept, expected = kept_bytes(ours, x), kept_bytes(Gate(copy.deepcopy(ours)), x)
        assert all(a <= b for a, b in zip(kept, expected, strict=True)), (frozen, wants_x, bias)


def most(net: nn.Module, x: Tensor, step: Callable[[nn.Module, Tensor], object]) -> int:
    """Bytes at the height of a step, above what was there before."""
    for _ in range(2):  # the first one also makes what stays
        net.zero_grad()
        height = peak(lambda: step(net, x), x.device)
    return height


def backward(net: nn.Module, x: Tensor) -> None:
    torch.manual_seed(0)
    net(x).square().mean().backward()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_step_needs_no_more_than_autograds(activation: str, norm: str) -> None:
    """Activations go as they are read; 1 % for what is none, 4 % in RMSNorm."""
    f = [manualbp.MLP((1, 1, 1), activation)[1] for _ in range(3)]
    theirs = nn.Sequential(
        nn.Linear(16, 64), f[0], NORMS[norm](64), nn.Linear(64, 64), f[1], nn.Linear(64, 64), f[2],
        nn.Linear(64, 8),
    )  # fmt: skip
    x = torch.randn(2048, 16)
    expected = most(theirs, x, backward)
    for memory in ("full", "low"):
        ours = hand_twin(theirs)
        manualbp.set_memory(memory, ours)
        assert most(ours, x, backward) <= (1.04 if norm == "rmsnorm" else 1.01) * expected


@pytest.mark.usefixtures("in_python")
def test_planted_hoarding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recursion that holds on to what it has read."""
    right, held = Linear.backward, []

    def hoarding(self, delta, needs, tape, *args):  # type: ignore[no-untyped-def]
        held.append((delta, list(tape)))
        return right(self, delta, needs, tape, *args)

    monkeypatch.setattr(Linear, "backward", hoarding)
    with pytest.raises(AssertionError):
        test_a_step_needs_no_more_than_autograds("tanh", "none")
