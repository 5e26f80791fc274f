"""A chain in stages, some of them residual: what derivatives by the input run through."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from manualbp.autograd.segment import Segment
from manualbp.maths import backprop
from manualbp.maths.layers import Theta
from manualbp.maths.taylor import Stage

TILE_BYTES = 2**22  # of a jet in a tile's widest layer, so that several of them stay in the cache
KEPT_BYTES = 2**27  # of all jets of a batch, up to which they are kept


class Stages(Segment):
    """A segment in stages: each has some of its layers, in order, and may be residual.

    ``by_hand`` says whether a module of ours calls them, so that nested autograd of the model goes
    through Python's recursion.
    """

    def __init__(
        self, stages: Sequence[Segment], residual: Sequence[bool], by_hand: bool = True
    ) -> None:
        layers = [layer for stage in stages for layer in stage.layers]
        super().__init__(layers, [theta for stage in stages for theta in stage.thetas])
        self.by_hand = by_hand
        self.native: dict[Any, Any] = {}  # the stages as C++ takes them, by shapes
        self.guard: Any = None  # that runs those without further questions
        self.served: set[Any] = set()  # the x and directions for which it does
        self.ends = [(len(b.layers), r) for b, r in zip(stages, residual, strict=True)]

    def of(self, thetas: Sequence[Theta], wanted: Sequence[Any] | None, x: bool) -> list[Stage]:
        """The stages with these parameters, and the gradients that are wanted."""
        steps = backprop.steps(self.layers, thetas, wanted, x)
        found, start = [], 0
        for count, residual in self.ends:
            found.append(Stage(steps[start : start + count], residual))
            start += count
        return found

    @cached_property
    def whole(self) -> list[Stage]:
        """The stages with the parameters as they are, and every gradient but dC/dx."""
        return self.of(self.thetas, None, False)

    def fit(self, inputs: int) -> bool:
        """Whether x (N, inputs) goes through, and the residual stages keep their width."""
        shape: tuple[int, ...] | None = (1, inputs)
        start = 0
        for count, residual in self.ends:
            before = shape
            for i in range(start, start + count):
                shape = shape and self.layers[i].output_shape(shape, self.thetas[i])
            if shape is None or (residual and shape != before):
                return False
            start += count
        return True

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The outputs of every layer with weights; the last are O."""
        return tuple(len(t) for t in self.tensors() if t.dim() == 2)[::-1]

    def few_outputs(self, most: int) -> bool:
        """Whether du can come down from each output, of which there are at most so many."""
        return self.widths[-1] <= most and not self.residual()

    def residual(self) -> bool:
        """Whether there is a residual stage."""
        return any(residual for _, residual in self.ends)

    def tile(self, rows: int, itemsize: int) -> int:
        """The points of a tile, of which each has so many rows of a jet."""
        return max(TILE_BYTES // (rows * max(1, *self.widths) * itemsize), 16)

    def keeps(self, points: int, rows: int, itemsize: int) -> bool:
        """Whether all jets are kept: each layer keeps its input's."""
        return 2 * points * rows * sum(self.widths) * itemsize <= KEPT_BYTES
