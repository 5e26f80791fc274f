"""What is compared with itself: everything in this project that can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import manualbp
from comparisons.counterparts import LOSSES, WithLoss
from comparisons.power.correct_pairs import correct_pair
from comparisons.power.equivalences import EQUIVALENCES, SHAPES, Equivalence
from comparisons.power.situations.cases import RIGHT, layer_pair
from manualbp.maths.activations import ACTIVATIONS, to_module
from tests.maths.swept import SWEPT, around


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
