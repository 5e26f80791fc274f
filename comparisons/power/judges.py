"""Who says whether a candidate is wrong; each is asked about the same pair and the same data.

| judge | rule |
| --- | --- |
| ours | manualbp.parity.compare_gradients, float32 |
| gradcheck | torch.autograd.gradcheck at its defaults: the candidate in float64, by differences |
| assert_close | torch.testing.assert_close at its defaults on every gradient, float32 |
| loss 5 %, loss 1e-4 | 100 steps of SGD, lr 0.1: a loss that far from the reference's, relatively |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients
from manualbp.parity.record import DIFFER, GradientReport

STEPS, LEARNING_RATE = 100, 0.1
Batch = tuple[tuple[Tensor, ...], Any]
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


Judge = Callable[[Pair], bool]


def compared(pair: Pair) -> GradientReport:
    """Our report on the first batch."""
    inputs, target = pair.batches[0]
    return compare_gradients(
        pair.candidate, pair.reference, inputs, pair.loss, target=target, power=False
    )


def ours(pair: Pair) -> bool:
    """compare_gradients says DIFFER."""
    return compared(pair).verdict == DIFFER


def gradcheck(pair: Pair) -> bool:
    """torch.autograd.gradcheck fails on the candidate as a function of inputs and parameters."""
    module = copy.deepcopy(pair.candidate).double()
    names = [name for name, _ in module.named_parameters()]
    inputs = [leaf(_double(x)) for x in pair.batches[0][0]]

    def function(*tensors: Tensor) -> Tensor:
        values = dict(zip(names, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(module, values, tensors[: len(inputs)])

    tensors = (*inputs, *(leaf(p) for p in module.parameters()))
    return not torch.autograd.gradcheck(function, tensors, raise_exception=False)


def assert_close(pair: Pair) -> bool:
    """torch.testing.assert_close fails on one of the gradients."""
    found, expected = gradients(pair, pair.candidate), gradients(pair, pair.reference)
    return not all(_close(a, b) for a, b in zip(found, expected, strict=True))


def loss_curve(limit: float) -> Judge:
    """A judge of losses: one of them is more than ``limit`` off, relatively."""

    def judge(pair: Pair) -> bool:
        found, expected = losses(pair.candidate, pair), losses(pair.reference, pair)
        return not all(
            abs(a - b) <= limit * abs(b) for a, b in zip(found, expected, strict=True)
        )  # NaN is caught

    return judge


JUDGES: dict[str, Judge] = {
    "ours": ours,
    "gradcheck": gradcheck,
    "assert_close": assert_close,
    "loss 5 %": loss_curve(0.05),
    "loss 1e-4": loss_curve(1e-4),
}


def gradients(pair: Pair, module: nn.Module) -> Sequence[Tensor | None]:
    """Of the first batch's loss; of the outputs, weighted by [0.5, 1.5], where there is none."""
    inputs, target = pair.batches[0]
    leaves = [leaf(x) for x in inputs]
    output = module(*leaves)
    value = pair.loss(output, target) if pair.loss else output
    weights = torch.ones_like(value)
    if value.dim():
        generator = torch.Generator().manual_seed(0)
        weights = (0.5 + torch.rand(value.shape, generator=generator)).to(value)
    wanted = [x for x in (*leaves, *module.parameters()) if x.requires_grad]
    return torch.autograd.grad(value, wanted, weights, allow_unused=True)


def losses(module: nn.Module, pair: Pair) -> tuple[float, ...]:
    """The loss at every step of SGD from the module's parameters, over the batches in turn."""
    return _losses(module, pair.loss, pair.batches)


@lru_cache(maxsize=4)  # the reference's serve every fault of a subject, the candidate's two judges
def _losses(module: nn.Module, loss: Loss, batches: tuple[Batch, ...]) -> tuple[float, ...]:
    module = copy.deepcopy(module)
    optimizer = torch.optim.SGD(module.parameters(), LEARNING_RATE)
    found = []
    for step in range(STEPS):
        inputs, target = batches[step % len(batches)]
        optimizer.zero_grad()
        output = module(*inputs)
        value = loss(output, target) if loss else output
        value.backward()
        optimizer.step()
        found.append(value.item())
    return tuple(found)


def leaf(values: Tensor) -> Tensor:
    """The same numbers, asking for a gradient where they can have one."""
    return values.detach().clone().requires_grad_(values.is_floating_point())


def _double(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    try:
        torch.testing.assert_close(a, b)
    except AssertionError:
        return False
    return True
