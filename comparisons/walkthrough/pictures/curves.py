"""The cost over the steps of training, and gradient norms over depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from comparisons.walkthrough.pictures.shapes import Box, Dot, Line, Picture, Text
from comparisons.walkthrough.written import short

WIDTH = 360.0
LEFT, RIGHT = 46.0, 344.0  # of what is plotted; the page's slider has the same ends
TOP, BOTTOM, CURVE_HEIGHT = 30.0, 176.0, 214.0
BAR, LAYER, NAMES = 13.0, 30.0, 56.0  # a bar's height, a layer's, and the room of its number
POWERS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def cost_curve(name: str, costs: Mapping[int, float]) -> Picture:
    """The cost by step: a point for every step that the slider has, at equal distances."""
    picture = Picture(WIDTH, CURVE_HEIGHT, f"{name}: the cost over the steps of training")
    low, high = _decades(costs.values())
    steps = list(costs)

    def place(stop: int) -> tuple[float, float]:
        across = LEFT + (RIGHT - LEFT) * stop / (len(steps) - 1)
        share = (math.log10(costs[steps[stop]]) - low) / (high - low)
        return across, BOTTOM - share * (BOTTOM - TOP)

    shapes = picture.shapes
    shapes.append(Text(LEFT - 38, 16, "cost C (logarithmic)", "tick", "start"))
    for power in range(low, high + 1):
        y = BOTTOM - (power - low) / (high - low) * (BOTTOM - TOP)
        shapes.append(Line(LEFT, y, RIGHT, y, "grid"))
        shapes.append(Text(LEFT - 6, y + 4, _power(power), "tick", "end"))
    last = len(steps) - 1
    named = [n for n, step in enumerate(steps) if step in (0, 10, 100, 1000) and n < last - 1]
    for stop in [*named, last]:
        x, label = place(stop)[0], f"{steps[stop]:,}"
        shapes.append(Line(x, BOTTOM, x, BOTTOM + 4, "axis"))
        outside, anchor = (8, "end") if stop == last else (0, "middle")
        shapes.append(Text(x + outside, BOTTOM + 17, label, "tick", anchor))
    shapes.append(Line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    shapes.append(Text(RIGHT + 8, BOTTOM + 33, "step", "tick", "end"))
    points = [place(stop) for stop in range(len(steps))]
    shapes += [Line(*a, *b, "curve") for a, b in pairwise(points)]
    shapes += [Dot(*point, 3, "point", stop) for stop, point in enumerate(points)]
    return picture


def vanishing_bars(norms: Mapping[str, Sequence[float]]) -> Picture:
    """|dC/dw| of every layer, a bar for each activation, on a logarithmic scale."""
    depth = len(next(iter(norms.values())))
    top = 62.0
    picture = Picture(WIDTH, top + depth * LAYER + 8,
                      "|dC/dw| of every layer of a deep network, sigmoid and ReLU")  # fmt: skip
    low, high = _decades(value for each in norms.values() for value in each)
    right, shapes = WIDTH - 62, picture.shapes

    def across(power: float) -> float:
        return NAMES + (power - low) / (high - low) * (right - NAMES)

    for n, f in enumerate(norms):
        x = NAMES + 96 * n
        shapes.append(Box(x, 8, 12, 12, f, 2))
        shapes.append(Text(x + 18, 18, {"relu": "ReLU"}.get(f, f), "heading", "start"))
    shapes.append(Text(WIDTH - 8, 18, "|∂C/∂w| (logarithmic)", "tick", "end"))
    for power in range(low, high + 1):
        shapes.append(Line(across(power), top - 10, across(power), picture.height - 8, "grid"))
        if (power - low) % 2 == 0:
            shapes.append(Text(across(power), top - 15, _power(power), "tick"))
    for layer in range(depth):
        y = top + layer * LAYER
        name = f"layer {layer + 1}"
        shapes.append(Text(NAMES - 6, y + BAR + 4, name, "tick", "end"))
        for n, (f, values) in enumerate(norms.items()):
            end, foot = across(math.log10(values[layer])), y + n * BAR
            shapes.append(Box(NAMES, foot, end - NAMES, BAR - 1, f))
            shapes.append(Text(end + 5, foot + BAR - 3, short(values[layer]), "tick", "start"))
    return picture


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten below and above all values."""
    logarithms = [math.log10(value) for value in values]
    low = math.floor(min(logarithms))
    return low, max(math.ceil(max(logarithms)), low + 1)


def _power(power: int) -> str:
    return {0: "1", -1: "0.1"}.get(power, f"10{str(power).translate(POWERS)}")
