"""A picture as data: shapes with places and looks. svg.py and pixels.py draw it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

# Name: on a light page, on a dark one.
COLOURS = {
    "paper": ("#ffffff", "#15181d"),
    "card": ("#f4f6f9", "#20252d"),
    "ink": ("#1a1e24", "#eceff4"),
    "dim": ("#59626f", "#a3adbb"),
    "line": ("#7c8695", "#6f7a8a"),
    "grid": ("#e2e6ec", "#2d343f"),
    "forward": ("#0b5cad", "#7cbcff"),
    "backward": ("#b0350c", "#ff9d76"),
}


class Look(NamedTuple):
    """Colours by name, widths in the picture's units; what is None is not drawn."""

    fill: str | None = None
    stroke: str | None = None
    width: float = 1.0
    size: float = 0.0  # of letters
    bold: bool = False
    dashed: bool = False


LOOKS = {
    "paper": Look(fill="paper"),
    "wire": Look(stroke="line", width=1.6),
    "comparison": Look(stroke="line", width=1.6, dashed=True),  # from an output to the cost
    "card": Look(fill="card", stroke="line", width=1.4),
    "plate": Look(fill="paper", stroke="grid", width=1.2),  # behind an edge's numbers
    "heading": Look(fill="ink", size=12, bold=True),
    "name": Look(fill="dim", size=12),
    "value": Look(fill="ink", size=12),
    "small-name": Look(fill="dim", size=11),
    "small-value": Look(fill="ink", size=11),
    "grid": Look(stroke="grid", width=1.0),
    "axis": Look(stroke="line", width=1.2),
    "tick": Look(fill="dim", size=11),
    "curve": Look(stroke="forward", width=2.0),
    "point": Look(fill="forward"),
    "sigmoid": Look(fill="backward"),
    "relu": Look(fill="forward"),
}


class Text(NamedTuple):
    """Words at a place; y is that of the letters' feet.

    The page fills in the value of ``key``, or of ``later`` once that is known; ``later_words``
    then replace words without a key.
    """

    x: float
    y: float
    words: str
    look: str
    anchor: str = "middle"  # start, middle, end
    key: str = ""
    later: str = ""
    later_words: str = ""


class Line(NamedTuple):
    """From one point to another."""

    x1: float
    y1: float
    x2: float
    y2: float
    look: str


class Box(NamedTuple):
    """A rectangle, with round corners where ``radius`` says so."""

    x: float
    y: float
    width: float
    height: float
    look: str
    radius: float = 0.0


class Dot(NamedTuple):
    """A filled circle; ``stop`` is its place on the slider."""

    x: float
    y: float
    radius: float
    look: str
    stop: int


Shape: TypeAlias = Text | Line | Box | Dot


class Element(NamedTuple):
    """Shapes of one element of the network; with a title it can be chosen by mouse and keyboard."""

    name: str
    title: str
    shapes: Sequence[Shape]


@dataclass(frozen=True)
class Picture:
    """Width, height and shapes, the first at the back."""

    width: float
    height: float
    title: str
    shapes: list[Shape | Element] = field(default_factory=list)

    def flat(self) -> Iterator[Shape]:
        """All shapes, those of the elements among them."""
        for shape in self.shapes:
            if isinstance(shape, Element):
                yield from shape.shapes
            else:
                yield shape
