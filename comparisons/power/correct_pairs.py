"""Correct pairs, for false alarms: kinds x dtypes x rows x scales x seeds, no two alike."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest

import torch
from torch import Tensor, nn

import manualbp
from comparisons.power.equivalences import COMPILED, KINDS, Function, Functional, Kind
from comparisons.power.judges import Pair
from comparisons.power.networks import SUBJECTS, by_hand, problem

ROWS = (1, 7, 33, 257)
SCALES = {
    torch.float64: (1.0, 1e3, 1e-6),
    torch.float32: (1.0, 1e3, 1e-6),
    torch.bfloat16: (1.0, 1e3, 1e-6),
    torch.float16: (1.0, 10.0, 0.1),  # whose numbers end at 65504
}
COMPILED_ROWS = 33  # one shape each, since each takes seconds to compile


@dataclass(frozen=True)
class Cell:
    """One correct pair by name."""

    kind: str
    dtype: torch.dtype
    rows: int
    scale: float
    seed: int

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.kind}, {dtype}, {self.rows} rows, x {self.scale:g}, seed {self.seed}"


def functional(kind: Kind, compiled: bool, cell: Cell) -> Pair:
    """A pair of two functions of the same numbers."""
    x, parameters = drawn(kind, cell)
    candidate = compile_once(kind.candidate) if compiled else kind.candidate
    modules = [Functional(f, parameters) for f in (candidate, kind.reference)]
    return Pair(modules[0], modules[1], None, (((x,), None),))


@cache
def compile_once(function: Function) -> Function:
    """torch.compile, once for all seeds."""
    return torch.compile(function, dynamic=False)


def drawn(kind: Kind, cell: Cell) -> tuple[Tensor, list[Tensor]]:
    """x and the parameters, from the global random state."""
    x, *parameters = (torch.randn(shape, dtype=torch.float64) for shape in kind.shapes(cell.rows))
    sized = [p / p[0].numel() ** 0.5 for p in parameters]
    return (x * cell.scale).to(cell.dtype), [p.to(cell.dtype) for p in sized]


def chain(ours: Callable[[nn.Sequential], nn.Module], cell: Cell) -> Pair:
    """nn.Sequential against the same by hand."""
    theirs = nn.Sequential(
        nn.Linear(9, 16),
        nn.LayerNorm(16),
        nn.GELU(),
        nn.Linear(16, 12),
        nn.Tanh(),
        nn.Linear(12, 3),
    ).to(cell.dtype)
    x = (torch.randn(cell.rows, 9) * cell.scale).to(cell.dtype)
    return Pair(ours(copy.deepcopy(theirs)), theirs, None, (((x,), None),))


def fast(model: nn.Sequential) -> nn.Module:
    """manualbp.Sequential in fast mode."""
    by_hand = manualbp.Sequential(*model)
    manualbp.set_mode("fast", by_hand)
    return by_hand


class WithLoss(nn.Module):
    """C(model(x), y) of a model and a loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, nn.MSELoss()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.model(x), y)


def one_pass(cell: Cell) -> Pair:
    """FusedLoss against model and loss."""
    pair = chain(lambda model: manualbp.FusedLoss(model, nn.MSELoss(), tile_rows=8), cell)
    (x,), _ = pair.batches[0]
    y = torch.randn(cell.rows, 3).to(cell.dtype)
    return Pair(pair.candidate, WithLoss(pair.reference), None, (((x, y), None),))


def subject(name: str, cell: Cell) -> Pair:
    """A network of subjects.py, its backward by hand."""
    found = problem(name, cell.seed, 1)
    reference = found.reference.to(cell.dtype)
    inputs, target = found.batches[0]
    cast = tuple(x.to(cell.dtype) if x.is_floating_point() else x for x in inputs)
    batch = cast, target.to(cell.dtype)
    return Pair(by_hand(reference), reference, found.loss, (batch,))


MAKERS: dict[str, Callable[[Cell], Pair]] = {
    **{kind.name: partial(functional, kind, False) for kind in KINDS},
    "manualbp.Sequential": lambda cell: chain(lambda m: manualbp.Sequential(*m), cell),
    "manualbp.Sequential, fast": lambda cell: chain(fast, cell),
    "manualbp.FusedLoss": one_pass,
}
OF_COMPILED: dict[str, Callable[[Cell], Pair]] = {
    kind.name: partial(functional, kind, True) for kind in COMPILED
}
OF_SUBJECTS: dict[str, Callable[[Cell], Pair]] = {
    f"{name}, by hand": partial(subject, name) for name in SUBJECTS
}


def make(cell: Cell) -> Pair:
    """The pair of a cell, from its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return (MAKERS | OF_COMPILED | OF_SUBJECTS)[cell.kind](cell)


def cells(count: int, seed: int, compiling: bool = True) -> list[Cell]:
    """``count`` different cells, every kind in turn; what they are depends on ``seed`` alone."""
    shuffle = random.Random(seed).shuffle
    queues: list[list[Cell]] = []

    def add(
        kind: str, rows: tuple[int, ...], scaled: bool, dtypes: tuple[torch.dtype, ...]
    ) -> None:
        queue = [
            Cell(kind, dtype, n, scale, seed + repeat)
            for repeat in range(4)
            for dtype in dtypes
            for n in rows
            for scale in (SCALES[dtype] if scaled else (1.0,))
        ]
        shuffle(queue)
        queues.append(queue)

    for kind in MAKERS:
        add(kind, ROWS, True, tuple(SCALES))
    for kind in OF_SUBJECTS:
        add(kind, (0,), False, tuple(SCALES))
    for kind in OF_COMPILED if compiling else ():
        add(kind, (COMPILED_ROWS,), True, (torch.float32,))
    turns = [cell for turn in zip_longest(*queues) for cell in turn if cell is not None]
    return turns[:count]
