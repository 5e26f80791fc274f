"""Layers in a row with their parameters, and what to do for the gradients that are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from manualbp.maths import backprop
from manualbp.maths.layers import Layer, Theta


class Segment:
    """Layers in a row with their parameters: what one Function runs.

    ``parameters`` has them in the order of ``backprop.flat``, the order of the Function's inputs.
    """

    def __init__(self, layers: Sequence[Layer], thetas: Sequence[Theta]) -> None:
        self.layers, self.thetas = tuple(layers), tuple(thetas)
        self.parameters: list[Tensor | None] = backprop.flat(self.layers, self.thetas)
        self.present = tuple(t is not None for t in self.parameters)
        self._tasks: dict[tuple[bool, ...], Task] = {}

    def task(self, wants: tuple[bool, ...]) -> Task:
        """What to do for the gradients of ``(*parameters, x)`` that are wanted."""
        found = self._tasks.get(wants)
        if found is None:
            found = self._tasks[wants] = Task(self, wants)
        return found

    def tensors(self) -> list[Tensor]:
        """The parameters that are there."""
        return [t for t in self.parameters if t is not None]


class Task:
    """A segment with the gradients that are wanted of it. Made once, used by every step."""

    def __init__(self, segment: Segment, wants: tuple[bool, ...]) -> None:
        by_layer = backprop.by_layer(segment.layers, wants[:-1])
        self.steps = backprop.steps(segment.layers, segment.thetas, by_layer, wants[-1])
        # Where on the tape the output of layer i may lie: (i, position).
        self.activations = list(_activations(segment.layers))
        self.ends = _ends(segment.present, wants)


def _ends(present: Sequence[bool], wants: Sequence[bool]) -> tuple[int, int] | None:
    """The first and the last parameter that is trained, of those present; None with an x.

    Where a backward pass asks for both, delta has to come all the way down. So what lies between
    is not asked after one by one, which would take as long as a small product.
    """
    there = [want for want, found in zip(wants, present, strict=False) if found]
    if wants[-1] or not any(there):
        return None
    return there.index(True), len(there) - 1 - there[::-1].index(True)


def _activations(layers: Sequence[Layer]) -> Iterator[tuple[int, int]]:
    """The layer itself keeps its output, or the one above keeps its input."""
    start = 0
    for i, layer in enumerate(layers):
        end, a = start + layer.keeps, layer.a_at()
        h = layers[i + 1].h_at() if i + 1 < len(layers) else None
        if a is not None:
            yield i, start + a
        elif h is not None:
            yield i, end + h
        start = end
