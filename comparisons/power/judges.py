"""The judges: who says whether a candidate is wrong. All are asked about the same pair and data.

| judge | rule |
| --- | --- |
| ours | manualbp.parity.compare_gradients, float32 |
| gradcheck | torch.autograd.gradcheck at its defaults: finite differences, float64 |
| check_grads | JAX's, at its defaults: one finite difference along a random direction, float32 |
| those of close.py | the candidate's gradients beside the reference's, float32 |
| loss 5 %, loss 1e-4 | 100 steps of SGD, lr 0.1: a loss differs relatively by more than that |
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from comparisons.power.close import CLOSE, GRADIENT_TOLERANCE
from comparisons.power.pair import Batch, Loss, Pair, leaf, tensors
from manualbp.parity import compare_gradients
from manualbp.parity.record import DIFFER, GradientReport

STEPS, LEARNING_RATE = 100, 0.1
DIRECTION_STEP = 1e-4  # of check_grads
Judge = Callable[[Pair], bool]


def compared(pair: Pair) -> GradientReport:
    """Our report on the first batch."""
    inputs, target = pair.batches[0]
    return compare_gradients(
        pair.candidate,
        pair.reference,
        inputs,
        pair.loss,
        target=target if pair.loss else None,
        power=False,
    )


def gradcheck(pair: Pair) -> bool:
    """torch.autograd.gradcheck fails on the candidate as a function of inputs and parameters."""
    module = copy.deepcopy(pair.candidate).double()
    inputs = [leaf(x.double() if x.is_floating_point() else x) for x in pair.batches[0][0]]
    arguments = (*inputs, *(leaf(p) for p in module.parameters()))
    function = as_function(module, len(inputs))
    try:
        return not torch.autograd.gradcheck(function, arguments, raise_exception=False)
    except Exception:  # the candidate's own
        return True


def check_grads(pair: Pair) -> bool:
    """<c, (f(x + h u) - f(x - h u)) / 2 h> is not <gradient of c, u> within 2e-3, c and u random.

    JAX multiplies the tolerance by the array's size, which is 1: both are numbers.
    """
    module = copy.deepcopy(pair.candidate)
    inputs = [leaf(x) for x in pair.batches[0][0]]
    arguments = [*inputs, *(leaf(p) for p in module.parameters())]
    function = as_function(module, len(inputs))
    generator = torch.Generator().manual_seed(0)

    def drawn(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    values = function(*arguments)
    along = {i: drawn(x) for i, x in enumerate(arguments) if x.requires_grad}
    cotangents = [drawn(v) for v in values]
    ends = []
    for step in (DIRECTION_STEP, -DIRECTION_STEP):
        moved = [x.detach() + step * along[i] if i in along else x
                 for i, x in enumerate(arguments)]  # fmt: skip
        with torch.no_grad():
            found = function(*moved)
        ends.append(sum(float((c * f).sum()) for c, f in zip(cotangents, found, strict=True)))
    expected = (ends[0] - ends[1]) / (2 * DIRECTION_STEP)
    gradients = torch.autograd.grad(
        values, [arguments[i] for i in along], cotangents, allow_unused=True
    )
    projected = sum(
        float((u * g).sum()) for u, g in zip(along.values(), gradients, strict=True)
        if g is not None
    )  # fmt: skip
    return not abs(projected - expected) <= GRADIENT_TOLERANCE * (1 + abs(expected))


def as_function(module: nn.Module, count: int) -> Callable[..., tuple[Tensor, ...]]:
    """The module as a function of its ``count`` inputs and of its parameters."""
    names = [name for name, _ in module.named_parameters()]

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(names, arguments[count:], strict=True))
        return tensors(torch.func.functional_call(module, values, arguments[:count]))

    return function


def loss_curve(limit: float, pair: Pair) -> bool:
    """A loss differs relatively by more than ``limit``, or is NaN."""
    found, expected = (
        losses(module, pair.loss or pair.trained, pair.batches)
        for module in (pair.candidate, pair.reference)
    )
    return not all(abs(a - b) <= limit * abs(b) for a, b in zip(found, expected, strict=True))


JUDGES: dict[str, Judge] = {
    "ours": lambda pair: compared(pair).verdict == DIFFER,
    "gradcheck": gradcheck,
    "check_grads": check_grads,
    **CLOSE,
    "loss 5 %": partial(loss_curve, 0.05),
    "loss 1e-4": partial(loss_curve, 1e-4),
}


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
