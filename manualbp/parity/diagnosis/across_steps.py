"""Kinds of wrong that only a training shows: a single step cannot.

stale         it is the gradient of the step before
accumulated   it is the sum of this and of all earlier gradients
last batch    it is wrong where a batch has fewer rows than those before
update        every gradient is right, and yet the parameters leave the envelope
buffer        nothing but a buffer is off
loss          nothing but the loss is off
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from manualbp.parity.arms.forward import LOSS, Tensors
from manualbp.parity.bits import rms, to_double
from manualbp.parity.diagnosis.evidence import factor_of
from manualbp.parity.record import Finding


class GradientHistory:
    """The reference's earlier gradients, to compare a wrong one of the candidate with."""

    def __init__(self) -> None:
        self._previous: dict[str, Tensor] = {}
        self._sum: dict[str, Tensor] = {}  # over all calls of the candidate before this step
        self._most = self._rows = self._fewer = self._calls = 0

    def start(self, rows: int, calls: int) -> None:
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
        """What a checkpoint stores, for ``load``."""
        return dict(vars(self))

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        vars(self).update(state)

    def explain(
        self, step: int, wrong: Iterable[str], ours: Tensors, theirs: Tensors
    ) -> tuple[Finding, ...]:
        """One finding for each wrong gradient that is of such a kind, or one for the update."""
        names = list(wrong)
        gradients = [name for name in names if name.endswith(".grad")]
        if not gradients:
            return (_no_gradient_is_wrong(step, names, theirs),)
        found = []
        for name in gradients:
            c, r = ours.get(name), theirs.get(name)
            if c is not None and r is not None and c.shape == r.shape and r.any():
                found.append(self._kind(step, name, c, r))
        return tuple(finding for finding in found if finding)

    def _kind(self, step: int, name: str, c: Tensor, r: Tensor) -> Finding | None:
        previous, total = self._previous.get(name), self._sum.get(name)
        if previous is not None and _alike(c, previous):
            return Finding(
                name, "stale", f"at step {step} it is the gradient of step {step - 1}", None,
                "look for what backward keeps from the call before, or does not clear",
            )  # fmt: skip
        if total is None:
            total = torch.zeros_like(r)  # the first step: a second call may already add up
        for calls in range(1, self._calls + 1):
            if (calls > 1 or total.any()) and _alike(c, total + calls * r):
                return Finding(
                    name, "accumulated",
                    f"at step {step} it is the sum of this and all earlier gradients", None,
                    "something is added to and never cleared: zero_grad, or a sum in a buffer",
                )  # fmt: skip
        if self._rows < self._most and self._fewer == 1:
            return self._last_batch(step, name, c, r)
        return None

    def _last_batch(self, step: int, name: str, c: Tensor, r: Tensor) -> Finding:
        factor = factor_of(to_double(c), to_double(r))
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


def _no_gradient_is_wrong(step: int, names: list[str], theirs: Tensors) -> Finding:
    """The loss alone, the update, or a buffer."""
    name = names[0]
    parameter = next((n for n in names if f"{n}.grad" in theirs), None)
    if names == [LOSS]:
        kind, what = "loss", "the loss is off and no gradient is"
        remedy = "compare the losses: a constant, or a term that has no gradient"
    elif parameter is not None:
        name, kind, what = parameter, "update", "every gradient is right, the parameter is not"
        remedy = "compare the optimizers: learning rate, weight decay, order of parameters"
    elif any(f"{n.rpartition('.')[0]}.grad" in theirs for n in names):
        kind, what = "update", "the optimizer's state is off, no gradient is"
        remedy = "compare the optimizers: betas, momentum, dampening"
    else:
        kind, what = "buffer", "the buffer is off and no gradient is"
        remedy = "compare how it is updated: momentum, the count, biased or unbiased variance"
    return Finding(name, kind, f"at step {step} {what}", None, remedy)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Within sqrt(eps) of b's size: the same thing, computed on nearly the same parameters."""
    x, y = to_double(a), to_double(b)
    return bool(rms(x - y) <= math.sqrt(torch.finfo(b.dtype).eps) * rms(y))
