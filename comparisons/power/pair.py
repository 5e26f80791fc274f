"""A candidate beside its reference: what every judge is asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Batch = tuple[tuple[Tensor, ...], Any]  # inputs and target
Loss = Callable[[Tensor, Any], Tensor] | None


@dataclass(frozen=True, eq=False)
class Pair:
    """A candidate, a reference with the same parameters, their loss and the batches.

    Without a loss the outputs have cotangents, and there is nothing to train.
    """

    candidate: nn.Module
    reference: nn.Module
    loss: Loss
    batches: tuple[Batch, ...]
