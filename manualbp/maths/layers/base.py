"""What every layer says of itself: a = f(h; theta), its backward, and what backward reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

Theta = tuple[Tensor | None, ...]  # a layer's parameters, or their gradients
Shape = tuple[int, ...]

# What the layers keep between the two passes, in a row. Forward adds to its end, backward
# takes from there. A tensor that backward will not read is None.
Tape = list[Tensor | None]
Kept = Sequence[Tensor | None]  # one layer's part of it
Grads = list[Tensor | None]  # dC/dtheta of all layers so far, last layer first

# How a gradient is computed.
#   kernel    by PyTorch's derivative kernels: autograd's bits
#   recorded  the same while autograd records, where PyTorch takes another expression for some
#   formula   as it is written
By = Literal["kernel", "recorded", "formula"]


class Needs(NamedTuple):
    """Which gradients of a layer are wanted: dC/dh, and dC/dtheta of each parameter."""

    h: bool
    theta: tuple[bool, ...] = ()

    def __bool__(self) -> bool:
        return self.h or any(self.theta)


class Layer(ABC):
    """One step of a chain. Without state of its own: what changes is in theta and in what is kept.

    h (..., I) input, a (..., O) output, delta = dC/da on its way down, of a's shape.
    """

    parameters: ClassVar[int] = 0  # how many theta has
    last_first: ClassVar[bool] = False  # whether autograd comes back to theta's last one first
    keeps: ClassVar[int] = 1  # how many tensors it puts on the tape
    by_r_operator: ClassVar[bool] = False  # whether `double_backward` is written
    constant: ClassVar[bool] = True  # whether it computes the same from the same h every time
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")  # where it has autograd's bits
    dtypes: ClassVar[tuple[torch.dtype, ...] | None] = None  # None: every floating dtype

    def prefers_r_operator(self, kept: Kept) -> bool:
        """Whether ``double_backward`` was measured to be faster than PyTorch's second order."""
        return False

    def by_rows(self) -> bool:
        """Whether each row of the output depends on that row of h alone."""
        return False

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        """The shape of a for an h of ``shape``; None where torch.nn raises an error."""
        return shape

    def buffers(self) -> tuple[Tensor, ...]:
        """Tensors besides theta that take part. They must be of h's dtype and device."""
        return ()

    def h_at(self) -> int | None:
        """Which of the tensors that it keeps is its input h; None where it keeps no h."""
        return None

    def a_at(self) -> int | None:
        """Which of the tensors that it keeps is its output a; None where it keeps no a."""
        return None

    @abstractmethod
    def forward(self, h: Tensor, theta: Theta, needs: Needs, tape: Tape) -> Tensor:
        """The output a. What ``backward`` reads for the gradients in ``needs`` goes on the tape."""

    def reads_forward(self) -> bool:
        """Whether backward reads what only ``forward`` finds: a, or statistics of h."""
        return True

    def keep(self, h: Tensor, theta: Theta, needs: Needs) -> Kept:
        """What ``forward`` puts on the tape, without running it, where not ``reads_forward``."""
        raise NotImplementedError(f"{type(self).__name__} finds what it keeps in forward alone")

    @abstractmethod
    def backward(
        self, delta: Tensor, needs: Needs, tape: Tape, grads: Grads, by: By = "kernel",
        over: bool = False,
    ) -> Tensor | None:  # fmt: skip
        """dC/dh, or None if not wanted.

        Args:
            delta: dC/da.
            needs: the gradients wanted.
            tape: ends with what ``forward`` put there, which is taken off.
            grads: dC/dtheta of each parameter is added here, None if not wanted; with
                ``last_first`` the last parameter's first.
            by: how the gradients are computed.
            over: whether delta may be written over, since nobody else reads it.
        """

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, kept: Kept, needs: Needs
    ) -> tuple[Tensor | None, Kept]:
        """The gradients of S = sum(v * dC/dh) + sum(v_theta * dC/dtheta) for delta and kept.

        Args:
            v: of the shape of h; None stands for zeros.
            v_theta: of the shapes of theta; None stands for zeros.
            delta: what ``backward`` read.
            kept: what ``backward`` read.
            needs: whether dS/dh and each dS/dtheta is wanted.

        Returns:
            dS/ddelta, and the gradients of what was kept; None for zeros.
        """
        raise NotImplementedError(f"{type(self).__name__} has no written second order")


def read(tensor: Tensor | None) -> Tensor:
    """A tensor that forward kept. It is None only where forward ran for other gradients."""
    if tensor is None:
        raise ValueError("forward kept None where a tensor is needed; run it again for these needs")
    return tensor


def taken(tape: Tape, count: int) -> list[Tensor | None]:
    """The last tensors on the tape, taken off."""
    kept = tape[-count:]
    del tape[-count:]
    return kept


def total(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there; None if none is."""
    found = None
    for term in terms:
        found = term if found is None else found if term is None else found + term
    return found
