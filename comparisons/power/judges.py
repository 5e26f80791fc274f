"""The judges: who says whether a candidate is wrong. All are asked about the same pair and data.

| judge | rule |
| --- | --- |
| ours | manualbp.parity.compare_gradients, float32 |
| gradcheck | torch.autograd.gradcheck at its defaults: finite differences, float64 |
| assert_close | torch.testing.assert_close at its defaults on every gradient, float32 |
| loss 5 %, loss 1e-4 | 100 steps of SGD, lr 0.1: a loss differs relatively by more than that |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients
from manualbp.parity.record import DIFFER, GradientReport

STEPS, LEARNING_RATE = 100, 0.1
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


Judge = Callable[[Pair], bool]


def compared(pair: Pair) -> GradientReport:
    """Our report on the first batch."""
    inputs, target = pair.batches[0]
    return compare_gradients(
        pair.candidate, pair.reference, inputs, pair.loss, target=target, power=False
    )


def gradcheck(pair: Pair) -> bool:
    """torch.autograd.gradcheck fails on the candidate as a function of inputs and parameters."""
    module = copy.deepcopy(pair.candidate).double()
    names = [name for name, _ in module.named_parameters()]
    inputs = [leaf(x.double() if x.is_floating_point() else x) for x in pair.batches[0][0]]

    def function(*tensors: Tensor) -> Tensor:
        values = dict(zip(names, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(module, values, tensors[: len(inputs)])

    tensors = (*inputs, *(leaf(p) for p in module.parameters()))
    return not torch.autograd.gradcheck(function, tensors, raise_exception=False)


def assert_close(pair: Pair) -> bool:
    """torch.testing.assert_close fails on one of the gradients."""
    found, expected = gradients(pair, pair.candidate), gradients(pair, pair.reference)
    try:
        torch.testing.assert_close(found, expected)
    except AssertionError:
        return True
    return False


def loss_curve(limit: float, pair: Pair) -> bool:
    """A loss differs relatively by more than ``limit``, or is NaN."""
    found, expected = (
        losses(module, pair.loss, pair.batches) for module in (pair.candidate, pair.reference)
    )
    return not all(abs(a - b) <= limit * abs(b) for a, b in zip(found, expected, strict=True))


JUDGES: dict[str, Judge] = {
    "ours": lambda pair: compared(pair).verdict == DIFFER,
    "gradcheck": gradcheck,
    "assert_close": assert_close,
    "loss 5 %": partial(loss_curve, 0.05),
    "loss 1e-4": partial(loss_curve, 1e-4),
}


def gradients(pair: Pair, module: nn.Module) -> Sequence[Tensor | None]:
    """The first batch's gradients: of the loss, or without one of the outputs.

    Outputs have random weights in [0.5, 1.5].
    """
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


@lru_cache(maxsize=4)  # a reference serves every fault of its network, a candidate two judges
def losses(module: nn.Module, loss: Loss, batches: tuple[Batch, ...]) -> tuple[float, ...]:
    """The loss at every step of SGD, from the module's parameters on, over the batches in turn."""
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
    """A copy that asks for a gradient where its dtype can have one."""
    return values.detach().clone().requires_grad_(values.is_floating_point())
