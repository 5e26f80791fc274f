"""The optimizers that trainings are compared with: by name, or made by the caller."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
OptimizerPair = tuple[MakeOptimizer, MakeOptimizer]  # the candidate's and the reference's
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01),
}


def pairs_of(
    optimizers: Collection[str] | Mapping[str, MakeOptimizer | OptimizerPair],
) -> dict[str, OptimizerPair]:
    """Both arms' optimizers by name.

    Raises:
        ValueError: none is given, or a name is unknown.
    """
    if isinstance(optimizers, str):
        optimizers = (optimizers,)
    if not optimizers:
        raise ValueError("expected at least one optimizer, got none")
    if isinstance(optimizers, Mapping):
        return {n: m if isinstance(m, tuple) else (m, m) for n, m in optimizers.items()}
    for name in optimizers:
        if name not in OPTIMIZERS:
            near = difflib.get_close_matches(str(name).lower(), OPTIMIZERS, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else (
                "pass a dict of a name and a function of the parameters for others")  # fmt: skip
            raise ValueError(
                f"expected optimizers out of {', '.join(OPTIMIZERS)}, got {name!r}; {hint}"
            )
    return {name: (OPTIMIZERS[name], OPTIMIZERS[name]) for name in optimizers}


def described(make: MakeOptimizer) -> str:
    """``SGD(lr=0.01)``: the class and what is not at its default."""
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    given = {k: v for k, v in optimizer.defaults.items() if v not in (None, False, 0)}
    return f"{type(optimizer).__name__}({', '.join(f'{k}={v}' for k, v in given.items())})"
