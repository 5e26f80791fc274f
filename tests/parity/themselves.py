"""What is compared with itself: everything in this project that can be, and what programs meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manualbp
from comparisons.counterparts import LOSSES, WithLoss
from comparisons.power.correct_pairs import correct_pair
from comparisons.power.equivalences import EQUIVALENCES, SHAPES, Equivalence
from comparisons.power.situations.cases import RIGHT, layer_pair
from manualbp.maths.activations import ACTIVATIONS, to_module
from tests.maths.swept import SWEPT, around

INF, NAN = float("inf"), float("nan")


class Subject(NamedTuple):
    """Makes one arm and its inputs; called with a seed, it makes the same ones."""

    arm: Callable[[], Any]
    inputs: Callable[[], tuple[Tensor, ...]]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        torch.manual_seed(0)
        return make()

    return made


def network(name: str, by_hand: bool = False) -> Subject:
    def arm() -> Any:
        pair = correct_pair(name, 0, 1)
        return pair.candidate if by_hand else pair.reference

    return Subject(arm, lambda: correct_pair(name, 0, 1).batches[0][0])


def equivalence(e: Equivalence) -> Subject:
    shapes = SHAPES[e.shapes](7)
    return Subject(lambda: e.reference,
                   lambda: tuple(normal(*s, seed=i) for i, s in enumerate(shapes)))  # fmt: skip


def of_x(make: Callable[[], Any], *shape: int) -> Subject:
    return Subject(seeded(make), lambda: (normal(*(shape or (6, 5))),))


def loss(ours: bool, name: str, **options: Any) -> Subject:
    kind = LOSSES[name][ours]
    y = torch.arange(6) % 5 if name == "cross_entropy" else normal(6, 5, seed=1).sigmoid()
    return Subject(seeded(lambda: WithLoss(nn.Linear(5, 5), kind(**options))),
                   lambda: (normal(6, 5), y))  # fmt: skip


def stack() -> list[nn.Module]:
    return [nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 3)]


def chosen(how: Callable[..., Any], choice: str) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        model = manualbp.Sequential(*stack())
        how(choice, model)
        return model

    return made


NETWORK_NAMES = ("MLP, tanh", "MLP, ReLU", "8 layers of sigmoid", "LayerNorm", "attention",
                 "convolution", "linear + GELU", "cross entropy", "RMSNorm", "SwiGLU", "embedding",
                 "cumulative sum")  # fmt: skip
OURS: dict[str, Subject] = {
    **{f"{n}, by autograd": network(n) for n in NETWORK_NAMES},
    **{f"{n}, by hand": network(n, True) for n in NETWORK_NAMES},
    **{f"reference of {e.name}": equivalence(e) for e in EQUIVALENCES if not e.compiled},
    **{k.__name__: Subject(lambda k=k: layer_pair(k, 0).candidate, lambda: (normal(6, 5),))
       for k in RIGHT},
    **{f"activation {n}": of_x(lambda f=f: to_module(f)) for n, f in ACTIVATIONS.items()},
    **{f"MLP of {n}": of_x(lambda n=n: manualbp.MLP((5, 6, 3), activation=n))
       for n in ACTIVATIONS},
    **{f"{'our' if ours else 'torch'} {n}": loss(ours, n) for n in LOSSES for ours in (0, 1)},
    **{f"{kind} {name}": of_x(lambda k=kind, n=name: nn.Sequential(*around(SWEPT[k](8)[n])))
       for kind in SWEPT for name in SWEPT[kind](8)},
    "Sequential": of_x(lambda: manualbp.Sequential(*stack())),
    "Sequential, fast": of_x(chosen(manualbp.set_mode, "fast")),
    "Sequential, low memory": of_x(chosen(manualbp.set_memory, "low")),
    "Residual": of_x(lambda: manualbp.Residual(nn.Linear(5, 5), nn.Tanh())),
    "GatedMLP": of_x(lambda: manualbp.GatedMLP(5, 8)),
    "FusedLoss": Subject(
        seeded(lambda: manualbp.FusedLoss(nn.Sequential(*stack()), nn.MSELoss(), tile_rows=4)),
        lambda: (normal(6, 5), normal(6, 3, seed=1)),
    ),
}  # fmt: skip


class OwnGenerator(nn.Module):
    """Noise that no global seed fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.draw = nn.Linear(5, 5), torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.rand(x.shape, generator=self.draw) < 0.5
        return self.inner(x * mask.to(x.dtype))

    def __deepcopy__(self, memo: Any) -> OwnGenerator:
        found = OwnGenerator()
        found.load_state_dict(self.state_dict())
        found.draw.set_state(self.draw.get_state())
        return found.to(self.inner.weight.dtype)


class RMSNormInFloat32(nn.Module):
    """As in Hugging Face's Llama: float32 inside, whatever comes in, float64 too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Counts(nn.Module):
    """Every call gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def with_one(value: float) -> Callable[[], tuple[Tensor, ...]]:
    def made() -> tuple[Tensor, ...]:
        x = normal(6, 5)
        x[2, 3] = value
        return (x,)

    return made


def ignored(z: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(z, labels)


def masked(z: Tensor) -> Tensor:
    return z.masked_fill(torch.ones_like(z, dtype=torch.bool), -INF).softmax(-1)


def zeros() -> tuple[Tensor, ...]:
    return (torch.zeros(6, 5),)


def function(f: Callable[..., Any], inputs: Callable[[], tuple[Tensor, ...]]) -> Subject:
    return Subject(lambda: f, inputs)


def plain() -> tuple[Tensor, ...]:
    return (normal(6, 5),)


MET: dict[str, Subject] = {
    "NaN comes in": function(torch.tanh, with_one(NAN)),
    "infinity comes in": function(torch.tanh, with_one(INF)),
    "infinity through a layer": Subject(seeded(lambda: nn.Linear(5, 3)), with_one(INF)),
    "NaN through a norm": Subject(seeded(lambda: nn.LayerNorm(5)), with_one(NAN)),
    "log of 0 and less": function(torch.log, with_one(0.0)),
    "all labels ignored": function(
        ignored, lambda: (normal(6, 5), torch.full((6,), -100))),
    "some labels ignored": function(
        ignored, lambda: (normal(6, 5), torch.tensor([0, -100, 1, 2, -100, 4]))),
    "norm at 0": function(torch.norm, zeros),
    "norm of rows at 0": function(lambda x: x.norm(dim=-1), zeros),
    "sqrt at 0": function(torch.sqrt, zeros),
    "0 / 0": function(lambda x: x / x.sum(-1, keepdim=True), zeros),
    "normalize at 0": function(F.normalize, zeros),
    "softmax of nothing": function(masked, plain),
    "overflow": function(lambda x: (300 * x) ** 5 * 1e20, plain),
    "exp overflows": function(lambda x: (100 * x).exp(), plain),
    "underflow": function(lambda x: (x * 1e-30) * 1e-30, plain),
    "ties of max": function(lambda x: x.amax(-1), zeros),
    "relu at 0": function(torch.relu, zeros),
    "empty batch": of_x(lambda: nn.Linear(5, 3), 0, 5),
    "empty mean": function(lambda x: x.mean(), lambda: (torch.zeros(0, 5),)),
    "one number": function(torch.sin, lambda: (torch.tensor(0.3),)),
    "one row in batch norm": Subject(
        seeded(lambda: nn.BatchNorm1d(5)), lambda: (normal(2, 5)[:1].expand(4, 5).clone(),)),
    "nothing depends on x": function(lambda x: x.detach() + 0 * x, plain),
    "no gradient at all": function(lambda x: x.detach(), plain),
    "integers come out": function(lambda x: (x * 2, x.argmax(-1)), plain),
    "its own generator": of_x(OwnGenerator),
    "another result at every call": of_x(Counts),
    "float32 inside": of_x(RMSNormInFloat32),
    "dropout": of_x(lambda: nn.Dropout(0.5)),
    "spectral norm": of_x(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))),
    "weight norm": of_x(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))),
    "an unused parameter": of_x(lambda: nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])[0]),
    "cancellation": function(lambda x: (x + 1e6).var(-1), plain),
    "a root of a difference": function(lambda x: (x.square().sum() - x.square().sum()).sqrt(),
                                       plain),
    "a decision": function(lambda x: x * 2 if float(x.detach().sum()) > 0 else x * 3, plain),
    "rounding itself": function(lambda x: (x * 8).round() / 8 + x, plain),
}  # fmt: skip
