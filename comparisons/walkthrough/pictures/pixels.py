"""A picture as pixels, for TensorBoard: drawn by matplotlib on light paper."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch
from numpy.typing import NDArray

from comparisons.pixels import of as as_pixels
from comparisons.walkthrough.pictures.shapes import COLOURS, LOOKS, Box, Dot, Line, Picture, Text

DPI = 144  # two pixels for a unit of the picture
ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    figure = Figure((picture.width / 72, picture.height / 72))  # a unit is a point
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    for order, shape in enumerate(picture.flat()):
        look = LOOKS[shape.look]
        fill, edge = (COLOURS[c][0] if c else "none" for c in (look.fill, look.stroke))
        match shape:
            case Line(x1, y1, x2, y2):
                line = Line2D((x1, x2), (y1, y2), color=edge, linewidth=look.width, zorder=order)
                line.set_linestyle("--" if look.dashed else "-")
                axes.add_line(line)
            case Box(x, y, width, height, _, radius):
                rounded = f"round,pad=0,rounding_size={max(radius, 1e-3)}"
                axes.add_patch(FancyBboxPatch(
                    (x, y), width, height, rounded, facecolor=fill, edgecolor=edge,
                    linewidth=look.width, zorder=order,
                ))  # fmt: skip
            case Dot(x, y, radius):
                axes.add_patch(Circle((x, y), radius, color=fill, zorder=order))
            case Text():
                # Its letters, DejaVu's, are wider than a browser's.
                axes.text(shape.x, shape.y, shape.words, color=fill, fontsize=0.88 * look.size,
                          fontweight="bold" if look.bold else "normal", zorder=order,
                          ha=ANCHORS[shape.anchor], va="baseline")  # fmt: skip
    return as_pixels(figure, DPI)
