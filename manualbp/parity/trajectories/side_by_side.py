r"""Two trainings side by side, held together after every step.

    batch t --+--> candidate: C, dC/dw, w <- optimizer(w, dC/dw) --+
              |                                                    +--> Step t
              +--> reference: C, dC/dw, w <- optimizer(w, dC/dw) --+

Both arms start from the same parameters and buffers, take the same batches and draw the same
random numbers. Each trains by itself, so a difference stays and grows. A divergence is
max |candidate - reference| over the elements of one tensor: 0 only where every bit agrees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manualbp.parity.arms.batches import Batch, check_batch
from manualbp.parity.arms.forward import LOSS
from manualbp.parity.arms.parameters import check_apart
from manualbp.parity.bits import bit_identical, to_double
from manualbp.parity.step_record import ArmStep, Step

Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Arm:
    """One side: a module, the loss and the optimizer it trains with, and further metrics.

    Args:
        name: in messages and charts.
        module: what is trained, called with the inputs of a batch.
        loss: ``loss(output, target)``, a scalar.
        optimizer: over the module's parameters.
        metrics: a name -> ``metric(output, target)``, a number such as an accuracy in 0...1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import Arm
        >>> net = nn.Linear(4, 2)
        >>> arm = Arm("ours", net, nn.MSELoss(), torch.optim.SGD(net.parameters(), lr=0.1))
        >>> arm.name, arm.metrics
        ('ours', {})
    """

    name: str
    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    metrics: Mapping[str, Metric] = field(default_factory=dict)


def train_side_by_side(candidate: Arm, reference: Arm, batches: Iterable[Batch]) -> Iterator[Step]:
    """Train both arms, yielding a Step after each batch; their modules change as in any training.

    The arms take turns in going first, so that neither has the warmer cache every time.

    Args:
        candidate: the side under test.
        reference: what it should train like, by the same names of parameters.
        batches: (inputs, target), each (N, ...); one step for each.

    Yields:
        A ``Step`` after each batch, with both arms' numbers and how far apart they are.

    Raises:
        ValueError: the arms do not start alike, share a parameter or have one name; a batch is
            empty or not finite (neither arm has taken it then), or there is no batch at all.

    Example:
        >>> import copy
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import Arm, train_side_by_side
        >>> def arm(name, net):
        ...     return Arm(name, net, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))
        >>> net, batch = nn.Linear(4, 2), (torch.randn(8, 4), torch.randn(8, 2))
        >>> arms = arm("ours", net), arm("theirs", copy.deepcopy(net))
        >>> [max(step.divergence.values()) for step in train_side_by_side(*arms, [batch] * 3)]
        [0.0, 0.0, 0.0]
    """
    if candidate.name == reference.name:
        raise ValueError(f"expected two names for the two arms, got {candidate.name!r} twice")
    _check_alike(candidate.module, reference.module)
    number = 0
    for number, (x, y) in enumerate(batches, start=1):
        _check_pair(number, x, y)
        first, second = (candidate, reference) if number % 2 else (reference, candidate)
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            done = {first.name: _step(first, x, y)}
        done[second.name] = _step(second, x, y)  # it draws the same dropout masks
        ours, theirs = done[candidate.name], done[reference.name]
        yield Step(number, ours, theirs, _divergence(candidate, reference, ours, theirs))
    if number == 0:
        raise ValueError("expected at least one batch, got none; is the data set empty?")


@torch.no_grad()
def evaluate(arm: Arm, x: Tensor, y: Tensor) -> dict[str, float]:
    """The arm's metrics on held-out data, in eval mode; every child's mode is put back.

    Args:
        arm: whose module, loss and metrics.
        x: inputs (N, ...).
        y: targets, as the loss takes them.

    Returns:
        The loss, as ``loss``, and the arm's metrics, by name.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import Arm, evaluate
        >>> net = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
        >>> arm = Arm("ours", net, nn.L1Loss(), None, {"top": lambda o, y: o.max().item()})
        >>> evaluate(arm, torch.ones(2, 3), torch.zeros(2, 3)), net.training
        ({'loss': 1.0, 'top': 1.0}, True)
    """
    modes = [(child, child.training) for child in arm.module.modules()]
    arm.module.eval()
    try:
        return _metrics(arm, output := arm.module(x), y, arm.loss(output, y))
    finally:
        for child, training in modes:
            child.training = training


def _step(arm: Arm, x: Tensor, y: Tensor) -> ArmStep:
    _synchronize(x.device)
    start = time.perf_counter()
    arm.optimizer.zero_grad()
    output = arm.module(x)
    loss = arm.loss(output, y)
    loss.backward()  # type: ignore[no-untyped-call]
    arm.optimizer.step()
    _synchronize(x.device)
    seconds = time.perf_counter() - start
    rate = float(arm.optimizer.param_groups[0]["lr"])
    return ArmStep(_metrics(arm, output, y, loss), rate, _gradient_norms(arm.module), seconds)


def _metrics(arm: Arm, output: Tensor, y: Tensor, loss: Tensor) -> dict[str, float]:
    output = output.detach()
    return {LOSS: loss.item(), **{name: m(output, y) for name, m in arm.metrics.items()}}


def _gradient_norms(module: nn.Module) -> dict[str, float]:
    """sqrt(sum of dC/dw^2) of every layer, a layer being a module with parameters of its own."""
    squares: dict[str, float] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            layer = name.rpartition(".")[0] or name
            norm = float(torch.linalg.vector_norm(parameter.grad.detach().double()))
            squares[layer] = squares.get(layer, 0.0) + norm * norm
    return {layer: square**0.5 for layer, square in squares.items()}


def _divergence(candidate: Arm, reference: Arm, ours: ArmStep, theirs: ArmStep) -> dict[str, float]:
    losses = (torch.tensor(done.metrics[LOSS], dtype=torch.float64) for done in (ours, theirs))
    found = {LOSS: _apart(*losses)}
    twins = dict(reference.module.named_parameters())
    for name, parameter in candidate.module.named_parameters():
        found[f"{name}.grad"] = _apart(parameter.grad, twins[name].grad)
        found[name] = _apart(parameter, twins[name])
    buffers = dict(reference.module.named_buffers())
    for name, buffer in candidate.module.named_buffers():
        found[name] = _apart(buffer, buffers[name])
    return found


def _apart(a: Tensor | None, b: Tensor | None) -> float:
    """max |a - b|: 0 for equal bits, infinity where one is missing or a NaN stands on one side."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    if bit_identical(a, b):
        return 0.0
    apart = float((to_double(a) - to_double(b)).abs().max())
    # Bits differ and the difference is 0: a signed zero. Still a difference, the smallest there is.
    return max(apart, 5e-324) if apart == apart else float("inf")


def _check_alike(candidate: nn.Module, reference: nn.Module) -> None:
    ours, theirs = candidate.state_dict(), reference.state_dict()
    for name in {**ours, **theirs}:
        if name not in ours or name not in theirs or not bit_identical(ours[name], theirs[name]):
            raise ValueError(
                f"expected both arms to start from the same parameters and buffers, got different "
                f"{name}; use candidate.load_state_dict(reference.state_dict())"
            )
    here, there = dict(candidate.named_parameters()), dict(reference.named_parameters())
    if set(here) != set(there):
        raise ValueError("expected the same parameter names in both arms; ties must match as well")
    check_apart(here, there)


def _check_pair(number: int, x: Tensor, y: Tensor) -> None:
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(
            f"batch {number}: expected as many inputs as targets, at least one, "
            f"got {len(x)} and {len(y)}"
        )
    check_batch(number, (x, y))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
