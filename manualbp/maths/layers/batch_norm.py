"""BatchNorm: a normalization over the rows of each feature. Its formulas are those of norms.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.maths.layers.base import By, Grads, Layer, Needs, Shape, Tape, Theta, read, taken
from manualbp.maths.layers.norms import formula, split

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """a = xhat * gamma + beta, mu and var over all but dimension 1 of h (N, C) or (N, C, L).

    With ``training`` they are the batch's, and the running statistics move towards them by
    ``momentum`` (None: by 1 / number of batches so far, which ``batches`` counts); without, they
    are the running ones, constants: dC/dh = r g.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    batches: Tensor | None
    training: bool
    momentum: float | None
    eps: float
    parameters = 2
    keeps = 6
    constant = False
    devices = ("cpu",)  # on a GPU PyTorch chooses between several kernels

    def buffers(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.running_mean, self.running_var) if t is not None)

    def h_at(self) -> int | None:
        return 0

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        if len(shape) not in (2, 3) or any(
            t is not None and t.shape != shape[1:2] for t in (*theta, *self.buffers())
        ):
            return None
        if 0 in shape:  # PyTorch has another way then
            return None
        values = math.prod(shape) // shape[1]  # of each feature
        return shape if values > 1 or not self.training else None

    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        gamma, beta = theta
        running = self.running_mean, self.running_var
        momentum = self.momentum or 0.0
        if self.batches is not None:
            self.batches.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.batches)
        a, mean, rstd = aten.native_batch_norm(
            h, gamma, beta, *running, self.training, momentum, self.eps
        )
        tape += (h, gamma, mean, rstd, *running) if needs else (None,) * self.keeps
        return a

    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        h, gamma, mean, rstd, running_mean, running_var = taken(tape, self.keeps)
        wanted = [needs.h, *needs.theta]
        if by == "formula":
            if not self.training:
                mean, rstd = running_mean, torch.rsqrt(read(running_var) + self.eps)
            found = self._formula(delta, read(h), gamma, read(mean), read(rstd), needs)
        else:
            found = aten.native_batch_norm_backward(
                delta, h, gamma, running_mean, running_var, mean, rstd, self.training, self.eps,
                wanted,
            )  # fmt: skip
        return split(found, wanted, grads)

    def _formula(
        self, delta: Tensor, h: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, needs: Needs
    ) -> Theta:
        column = (1, -1, *[1] * (h.dim() - 2))
        rows = tuple(d for d in range(h.dim()) if d != 1)
        r, gamma = r.view(column), None if gamma is None else gamma.view(column)
        xhat, over = (h - mean.view(column)) * r, rows if self.training else ()
        return formula(delta, xhat, r, gamma, over, rows, needs, centred=self.training)
