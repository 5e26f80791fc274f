"""What every judge is asked about: two arms with the same parameters, and their gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[tuple[Tensor, ...], Any]  # inputs and target
Loss = Callable[[Any, Any], Tensor] | None
Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """A candidate, a reference with the same parameters, their loss and the batches.

    Without a loss the outputs have cotangents. ``trained`` is the loss that such a pair trains by.
    """

    candidate: nn.Module
    reference: nn.Module
    loss: Loss
    batches: tuple[Batch, ...]
    trained: Loss = None


def gradients(pair: Pair, module: nn.Module) -> Gradients:
    """The first batch's gradients: of the loss, or without one of the outputs.

    Outputs have random weights in [0.5, 1.5].
    """
    inputs, target = pair.batches[0]
    leaves = [leaf(x) for x in inputs]
    output = module(*leaves)
    values = tensors(pair.loss(output, target) if pair.loss else output)
    wanted = [x for x in (*leaves, *module.parameters()) if x.requires_grad]
    weights = [weight(value, dtype(pair), seed) for seed, value in enumerate(values)]
    return torch.autograd.grad(values, wanted, weights, allow_unused=True)


def weight(value: Tensor, rounded: torch.dtype, seed: int) -> Tensor:
    """The cotangent of an output, 1 for a loss: the same numbers in every dtype."""
    if not value.dim():
        return torch.ones_like(value)
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + torch.rand(value.shape, generator=generator)).to(rounded).to(value)


def exact(pair: Pair) -> Gradients:
    """The reference's gradients in float64."""
    reference = copy.deepcopy(pair.reference).double()
    inputs, target = pair.batches[0]
    wide = replace(pair, batches=((tuple(double(x) for x in inputs), double(target)),))
    return gradients(wide, reference)


def dtype(pair: Pair) -> torch.dtype:
    """That of the reference's parameters, or else of its first input."""
    first = next(iter(pair.reference.parameters()), pair.batches[0][0][0])
    return first.dtype


def tensors(output: Any) -> tuple[Tensor, ...]:
    """One output or several, in a row."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def double(x: Any) -> Any:
    """A floating-point tensor in float64; everything else as it is."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def leaf(values: Tensor) -> Tensor:
    """A copy that asks for a gradient where its dtype can have one."""
    return values.detach().clone().requires_grad_(values.is_floating_point())
