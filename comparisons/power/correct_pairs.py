"""Correct pairs, for false alarms: kinds x dtypes x rows x scales x seeds, no two alike."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn

import manualbp
from comparisons.counterparts import WithLoss, in_fast_mode
from comparisons.power.equivalences import EQUIVALENCES, SHAPES, Equivalence, Function
from comparisons.power.networks import NETWORKS, by_hand
from comparisons.power.pair import Pair
from comparisons.power.situations.cases import RIGHT, layer_pair
from comparisons.power.situations.layer import Kernel

SCALES = {
    torch.float64: (1.0, 1e3, 1e-6),
    torch.float32: (1.0, 1e3, 1e-6),
    torch.bfloat16: (1.0, 1e3, 1e-6),
    torch.float16: (1.0, 10.0, 0.1),  # whose numbers end at 65504
}


@dataclass(frozen=True)
class PairCase:
    """The settings of one correct pair; ``kind`` is a name of ``KINDS``."""

    kind: str
    dtype: torch.dtype
    rows: int
    scale: float
    seed: int

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.kind}, {dtype}, {self.rows} rows, x {self.scale:g}, seed {self.seed}"


class Functional(nn.Module):
    """A function of x and its own parameters."""

    def __init__(self, function: Function, parameters: list[Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(p.clone()) for p in parameters])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


def functional(equivalence: Equivalence, case: PairCase) -> Pair:
    """The two ways of an equivalence, with the same numbers."""
    shapes = SHAPES[equivalence.shapes](case.rows)
    x, *parameters = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    x, sized = (x * case.scale).to(case.dtype), [p / p[0].numel() ** 0.5 for p in parameters]
    candidate = equivalence.candidate
    if equivalence.compiled:
        candidate = compile_once(candidate)
    ours, reference = (
        Functional(function, [p.to(case.dtype) for p in sized])
        for function in (candidate, equivalence.reference)
    )
    return Pair(ours, reference, None, (((x,), None),))


@cache
def compile_once(function: Function) -> Function:
    """torch.compile, once for all seeds."""
    return torch.compile(function, dynamic=False)


def chain(ours: Callable[[nn.Sequential], nn.Module], case: PairCase) -> Pair:
    """nn.Sequential against what ``ours`` makes of it."""
    theirs = nn.Sequential(
        nn.Linear(9, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 12), nn.Tanh(),
        nn.Linear(12, 3),
    ).to(case.dtype)  # fmt: skip
    x = (torch.randn(case.rows, 9) * case.scale).to(case.dtype)
    return Pair(ours(copy.deepcopy(theirs)), theirs, None, (((x,), None),))


def one_pass(case: PairCase) -> Pair:
    """FusedLoss against model and loss."""
    pair = chain(lambda model: manualbp.FusedLoss(model, nn.MSELoss(), tile_rows=8), case)
    (x,), _ = pair.batches[0]
    y = torch.randn(case.rows, 3).to(case.dtype)
    return Pair(pair.candidate, WithLoss(pair.reference, nn.MSELoss()), None, (((x, y), None),))


def correct_pair(name: str, seed: int, batches: int = 10) -> Pair:
    """A network and its copy by hand, with its loss and batches.

    The targets are those of another network of its kind, with noise of 0.1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reference, teacher = NETWORKS[name](), NETWORKS[name]()
        found = []
        for _ in range(batches):
            inputs = reference.inputs()
            with torch.no_grad():
                target = teacher(*inputs)
            found.append((inputs, target + 0.1 * torch.randn_like(target)))
    loss = own_loss if "loss" in reference.sites else nn.functional.mse_loss
    return Pair(by_hand(reference), reference, loss, tuple(found))


def own_loss(output: Tensor, target: Tensor) -> Tensor:
    """C = o: the network ends with its loss and needs no target."""
    return output


def network(name: str, case: PairCase) -> Pair:
    """A network of networks.py against its copy by hand."""
    pair = correct_pair(name, case.seed, 1)
    reference = pair.reference.to(case.dtype)
    inputs, target = pair.batches[0]
    cast = tuple(x.to(case.dtype) if x.is_floating_point() else x for x in inputs)
    return Pair(by_hand(reference), reference, pair.loss, ((cast, target.to(case.dtype)),))


def situated(kernel: Kernel, case: PairCase) -> Pair:
    """A kernel of situations/right.py against PyTorch's operators."""
    return layer_pair(kernel, case.seed, case.dtype)


class Kind(NamedTuple):
    """How pairs of one kind are made, and for which rows and dtypes."""

    make: Callable[[PairCase], Pair]
    rows: tuple[int, ...] = (1, 7, 33, 257)
    dtypes: tuple[torch.dtype, ...] = tuple(SCALES)
    scaled: bool = True
    compiled: bool = False


KINDS: dict[str, Kind] = {
    **{e.name: Kind(partial(functional, e)) for e in EQUIVALENCES if not e.compiled},
    "manualbp.Sequential": Kind(partial(chain, lambda model: manualbp.Sequential(*model))),
    "manualbp.Sequential, fast": Kind(
        partial(chain, lambda model: in_fast_mode(manualbp.Sequential(*model)))
    ),
    "manualbp.FusedLoss": Kind(one_pass),
    **{f"{n}, by hand": Kind(partial(network, n), rows=(0,), scaled=False) for n in NETWORKS},
    **{f"{k.__name__}, kernel": Kind(partial(situated, k), rows=(0,), scaled=False) for k in RIGHT},
    **{
        # one shape and dtype each, since each takes seconds to compile
        e.name: Kind(partial(functional, e), (33,), (torch.float32,), compiled=True)
        for e in EQUIVALENCES
        if e.compiled
    },
}


def make(case: PairCase) -> Pair:
    """The pair of a case, from its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        return KINDS[case.kind].make(case)


def pair_cases(count: int, seed: int, compiling: bool = True) -> list[PairCase]:
    """``count`` different cases, every kind in turn; what they are depends on ``seed`` alone."""
    shuffle = random.Random(seed).shuffle
    queues: list[list[PairCase]] = []
    for name, kind in KINDS.items():
        if kind.compiled and not compiling:
            continue
        queues.append([
            PairCase(name, dtype, n, scale, seed + repeat)
            for repeat in range(4)
            for dtype in kind.dtypes
            for n in kind.rows
            for scale in (SCALES[dtype] if kind.scaled else (1.0,))
        ])  # fmt: skip
        shuffle(queues[-1])
    turns = [case for turn in zip_longest(*queues) for case in turn if case is not None]
    return turns[:count]
