"""What every layer says of itself: a = f(h; theta), its backward, and what that reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

Theta = tuple[Tensor | None, ...]
Shape = tuple[int, ...]


class Needs(NamedTuple):
    """Which gradients of a layer are wanted: dC/dh, and dC/dtheta of each parameter."""

    h: bool
    theta: tuple[bool, ...] = ()

    def __bool__(self) -> bool:
        return self.h or any(self.theta)


_NONE = tuple((None,) * count for count in range(8))


class Cache(NamedTuple):
    """What the backward pass of a layer reads. A tensor that nobody will read is None."""

    h: Tensor | None = None  # its input
    a: Tensor | None = None  # its output
    theta: Theta = ()  # parameters
    extra: Theta = ()  # what forward found and backward takes as given: masks, statistics
    layout: Any = None  # shapes and memory formats

    def tensors(self) -> Theta:
        """All of them, in the order that ``filled`` takes."""
        return (self.h, self.a, *self.theta, *self.extra)

    def emptied(self) -> Cache:
        """The same without its tensors."""
        return Cache(None, None, _NONE[len(self.theta)], _NONE[len(self.extra)], self.layout)

    def filled(self, tensors: Iterator[Any]) -> Cache:
        """The same with other tensors."""
        h, a = next(tensors), next(tensors)
        theta = tuple(islice(tensors, len(self.theta)))
        return Cache(h, a, theta, tuple(islice(tensors, len(self.extra))), self.layout)

    def padded(self, like: Cache) -> Theta:
        """``tensors`` with None for what this cache lacks and the other has."""
        theta = (*self.theta, *[None] * (len(like.theta) - len(self.theta)))
        return (self.h, self.a, *theta, *[None] * len(like.extra))


class Layer(ABC):
    """One step of a chain. Without state of its own: what changes is in ``theta`` and the cache.

    h (..., I) input, a (..., O) output, delta = dC/da on its way down, of a's shape.
    """

    parameters: ClassVar[int] = 0  # how many theta has
    last_first: ClassVar[bool] = False  # whether autograd comes back to theta's last one first
    by_r_operator: ClassVar[bool] = False  # whether ``double_backward`` is written
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")  # where it has autograd's bits
    dtypes: ClassVar[tuple[torch.dtype, ...] | None] = None  # None: every floating dtype

    def prefers_r_operator(self, cache: Cache) -> bool:
        """Whether ``double_backward`` was measured to be faster than PyTorch's second order."""
        return False

    def output_shape(self, shape: Shape, theta: Theta) -> Shape | None:
        """The shape of a for an h of ``shape``; None where torch.nn has an error to tell."""
        return shape

    def buffers(self) -> tuple[Tensor, ...]:
        """Tensors besides theta that take part, and must be of h's dtype and device."""
        return ()

    @abstractmethod
    def forward(self, h: Tensor, theta: Theta, needs: Needs) -> tuple[Tensor, Cache]:
        """The output a, and the cache that ``backward`` reads for the gradients in ``needs``."""

    def reads_forward(self) -> bool:
        """Whether backward reads what only ``forward`` finds: a, or statistics of h."""
        return True

    def cache(self, h: Tensor, theta: Theta, needs: Needs) -> Cache:
        """The cache of ``forward`` without running it, where not ``reads_forward``."""
        raise NotImplementedError(f"{type(self).__name__} finds its cache in forward alone")

    @abstractmethod
    def backward(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """dC/dh and dC/dtheta, each None if not wanted; rounded as autograd rounds."""

    def backward_over(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """The same, free to write over delta, which nobody else reads."""
        return self.backward(delta, cache, needs)

    def recorded(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """The same in a graph that is being recorded, where autograd may round differently."""
        return self.backward(delta, cache, needs)

    def formula(self, delta: Tensor, cache: Cache, needs: Needs) -> Theta:
        """The same as it is written."""
        return self.backward(delta, cache, needs)

    def double_backward(
        self, v: Tensor | None, v_theta: Theta, delta: Tensor, cache: Cache, needs: Needs
    ) -> tuple[Tensor | None, Cache]:
        """The gradients of S = sum(v * dC/dh) + sum(v_theta * dC/dtheta) for delta and the cache.

        Args:
            v: of the shape of h; None stands for zeros.
            v_theta: of the shapes of theta; None stands for zeros.
            delta: what ``backward`` read.
            cache: what ``backward`` read.
            needs: whether dS/dh and each dS/dtheta is wanted.

        Returns:
            dS/ddelta, and a Cache that holds dS/dh or dS/da, and dS/dtheta; None for zeros.
        """
        raise NotImplementedError(f"{type(self).__name__} has no written second order")


def kept(tensor: Tensor | None) -> Tensor:
    """A tensor that forward kept; only a cache made for other ``needs`` has None there."""
    if tensor is None:
        raise ValueError("cache holds None where a tensor is needed; run forward again to fill it")
    return tensor


def own(tensor: Any) -> Any:
    """The tensor as no view: nobody may edit in place a view that leaves a Function."""
    if tensor is None or tensor.requires_grad or not tensor._is_view():
        return tensor
    return tensor.new_empty(0).set_(tensor)


def total(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there; None if none is."""
    found = None
    for term in terms:
        found = term if found is None else found if term is None else found + term
    return found
