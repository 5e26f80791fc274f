"""What kind of wrong a gradient is that only a training shows: the kinds a single step cannot.

stale         it is the gradient of the step before
accumulated   it is the sum of this and of all earlier gradients
last batch    it is wrong where a batch has fewer rows than those before
update        every gradient is right, and yet the parameters leave the envelope
buffer        nothing but a buffer is off
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from manualbp.parity.arms.runs import Tensors
from manualbp.parity.arms.trainee import LOSS
from manualbp.parity.judge.tolerance import rms, to_double
from manualbp.parity.record import Finding


class Memory:
    """The reference's earlier gradients, to hold a wrong one of the candidate against."""

    def __init__(self) -> None:
        self._previous: dict[str, Tensor] = {}
        self._sum: dict[str, Tensor] = {}  # over all calls of the candidate before this step
        self._most = self._rows = self._fewer = self._calls = 0

    def start(self, rows: int, calls: int, theirs: Tensors) -> None:
        """A step begins: its rows, and how often the candidate is called in it."""
        self._rows, self._calls = rows, calls
        self._fewer += rows < self._most
        self._most = max(self._most, rows)

    def end(self, theirs: Tensors) -> None:
        """A step is over."""
        self._previous = {n: t for n, t in theirs.items() if n.endswith(".grad") and t is not None}
        for name, gradient in self._previous.items():
            before = self._sum.get(name, torch.zeros_like(gradient))
            self._sum[name] = before + self._calls * gradient

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(vars(self))

    def load(self, state: dict[str, Any]) -> None:
        """The other way round."""
        vars(self).update(state)

    def explain(
        self, step: int, wrong: Iterable[str], ours: Tensors, theirs: Tensors
    ) -> tuple[Finding, ...]:
        """One finding for each wrong gradient that is of such a kind, or one for the update."""
        names = list(wrong)
        gradients = [name for name in names if name.endswith(".grad")]
        if not gradients:
            return self._elsewhere(step, names, ours, theirs)
        found = []
        for name in gradients:
            c, r = ours.get(name), theirs.get(name)
            if c is not None and r is not None and c.shape == r.shape and r.any():
                found += self._kind(step, name, c, r)
        return tuple(found)

    def _kind(self, step: int, name: str, c: Tensor, r: Tensor) -> list[Finding]:
        previous, total = self._previous.get(name), self._sum.get(name)
        if previous is not None and alike(c, previous):
            return [Finding(
                name, "stale", f"at step {step} it is the gradient of step {step - 1}", None,
                "look for what backward keeps from the call before, or does not clear",
            )]  # fmt: skip
        if total is None:
            total = torch.zeros_like(r)  # the first step: a second call may already add up
        for calls in range(1, self._calls + 1):
            if (calls > 1 or total.any()) and alike(c, total + calls * r):
                return [Finding(
                    name, "accumulated",
                    f"at step {step} it is the sum of this and all earlier gradients", None,
                    "something is added to and never cleared: zero_grad, or a sum in a buffer",
                )]  # fmt: skip
        if self._rows < self._most and self._fewer == 1:
            return [self._partial(step, name, c, r)]
        return []

    def _partial(self, step: int, name: str, c: Tensor, r: Tensor) -> Finding:
        factor = ratio(c, r)
        words = (
            f"wrong first at step {step}, whose batch is the first with fewer rows: "
            f"{self._rows} instead of {self._most}"
        )
        if math.isclose(factor, self._rows / self._most, rel_tol=1e-3):
            words += f"; it is {factor:.4g} = {self._rows}/{self._most} of what is expected"
        return Finding(
            name, "last batch", words, None,
            "take the number of rows from the batch, not from the first one or a constant",
        )  # fmt: skip

    def _elsewhere(
        self, step: int, names: list[str], ours: Tensors, theirs: Tensors
    ) -> tuple[Finding, ...]:
        """No gradient is wrong: the update, a buffer, or the loss alone."""
        name = names[0]
        if name == LOSS and len(names) == 1:
            return (Finding(
                LOSS, "loss", f"at step {step} the loss is off and no gradient is", None,
                "compare the losses: a constant, or a term that has no gradient",
            ),)  # fmt: skip
        if any(f"{n}.grad" in theirs for n in names):
            name = next(n for n in names if f"{n}.grad" in theirs)
            return (Finding(
                name, "update", f"at step {step} every gradient is right, the parameter is not",
                None, "compare the optimizers: learning rate, weight decay, order of parameters",
            ),)  # fmt: skip
        if any(f"{name.rpartition('.')[0]}.grad" in theirs for name in names):
            return (Finding(
                name, "update", f"at step {step} the optimizer's state is off, no gradient is",
                None, "compare the optimizers: betas, momentum, dampening",
            ),)  # fmt: skip
        return (Finding(
            name, "buffer", f"at step {step} the buffer is off and no gradient is", None,
            "compare how it is updated: momentum, the count, biased or unbiased variance",
        ),)  # fmt: skip


def alike(a: Tensor, b: Tensor) -> bool:
    """Within sqrt(eps) of b's size: the same thing, computed on nearly the same parameters."""
    x, y = to_double(a), to_double(b)
    return bool(rms(x - y) <= math.sqrt(torch.finfo(b.dtype).eps) * rms(y))


def ratio(a: Tensor, b: Tensor) -> float:
    """The factor f for which f b is nearest to a."""
    x, y = to_double(a), to_double(b)
    return float((x * y).sum() / y.square().sum())
