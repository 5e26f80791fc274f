"""A network as nodes and edges with their numbers, from left to right or from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.numbers import nodes_by_layer
from comparisons.walkthrough.pictures.shapes import Box, Element, Line, Picture, Shape, Text
from comparisons.walkthrough.written import symbols

UNKNOWN = "–"
COST = 0  # its number among the places; the nodes' begin with 1
CARD, ROW = 116.0, 18.0  # a card's width, and a row's height


class Place(NamedTuple):
    """The middle of a node, and how high it is."""

    x: float
    y: float
    height: float


class Layout(NamedTuple):
    """Which way the network goes, how far apart things are, and where an edge's numbers stand."""

    wide: bool
    layers: float  # from layer to layer
    uncrossed: float  # the same where no edges cross
    nodes: float  # from node to node
    margin: float
    straight: float  # the numbers' place on an edge between two cards, where it goes straight
    crossing: float  # and where others cross it
    plate: tuple[float, float]  # their width and height
    small: str = ""  # before the looks of their letters


WIDE = Layout(
    True, layers=276, uncrossed=276, nodes=240, margin=62, straight=0.5, crossing=0.22,
    plate=(130, 38),
)  # fmt: skip
NARROW = Layout(
    False, layers=292, uncrossed=172, nodes=238, margin=54, straight=0.5, crossing=0.13,
    plate=(112, 36), small="small-",
)  # fmt: skip
NARROW_WIDTH = 360.0
Values = Mapping[str, str]


def network(e: Example, values: Values, layout: Layout) -> Picture:
    """The picture, with the values by name; what has none is not known yet."""
    columns = _columns(e)
    places = _places(e, columns, layout)
    length = max(max(place[:2]) for place in places.values()) + layout.margin
    size = (length, _across(columns, layout)) if layout.wide else (NARROW_WIDTH, length)
    picture = Picture(*size, f"{e.source}: nodes, edges and their numbers")
    wires, plates = [], []
    for below, nodes in nodes_by_layer(e.network):
        crossing = _cross(below, nodes)
        for k in below:
            for j in nodes:
                share = _share(places[k], places[j], layout, crossing)
                x, y = _on_wire(places[k], places[j], layout, share)
                wires.append(Element(f"w_{j}{k}", "", [_wire(places[k], places[j], "wire")]))
                plates.append(_plate(f"w_{j}{k}", x, y, values, layout))
    for j in columns[-1]:
        wires.append(Element("cost", "", [_wire(places[j], places[COST], "comparison")]))
    cards = [_node(e, j, columns, place, values) for j, place in places.items() if j != COST]
    picture.shapes.extend([*wires, *plates, *cards, _cost(columns[-1], places[COST], values)])
    return picture


def _columns(e: Example) -> list[list[int]]:
    """The nodes of every layer, the input's first."""
    layers = list(nodes_by_layer(e.network))
    return [layers[0][0], *(nodes for _, nodes in layers)]


def _across(columns: list[list[int]], layout: Layout) -> float:
    """How much room the nodes of one layer take."""
    most = max(map(len, columns))
    return (most - 1) * layout.nodes + 6 * ROW if layout.wide else NARROW_WIDTH


def _places(e: Example, columns: list[list[int]], layout: Layout) -> dict[int, Place]:
    middle, along, found = _across(columns, layout) / 2, layout.margin, {}
    for number, nodes in enumerate([*columns, [COST]]):
        if number > 0:
            crossing = _cross(columns[number - 1], nodes)
            along += layout.layers if crossing else layout.uncrossed
        for n, j in enumerate(nodes):
            across = middle + (n - (len(nodes) - 1) / 2) * layout.nodes
            x, y = (along, across) if layout.wide else (across, along)
            rows = len(columns[-1]) + 1 if j == COST else len(_rows(e, j, number))
            found[j] = Place(x, y, (rows + 1.5) * ROW)
    return found


def _cross(below: list[int], nodes: list[int]) -> bool:
    return len(below) > 1 and len(nodes) > 1


def _rows(e: Example, j: int, layer: int) -> list[tuple[str, str]]:
    """What a node shows, as signs and names: its input; or b, z, a and delta."""
    if layer == 0:
        return [("x = a", f"a_{j}")]
    bias = [] if e.network.biases[layer - 1] is None else [("b", f"b_{j}")]
    return [*bias, ("z", f"z_{j}"), ("a", f"a_{j}"), ("δ", f"delta_{j}")]


def _node(e: Example, j: int, columns: list[list[int]], place: Place, values: Values) -> Element:
    layer = next(number for number, nodes in enumerate(columns) if j in nodes)
    kind = "input" if layer == 0 else "output" if layer == len(columns) - 1 else "node"
    return _card(f"node_{j}", f"{kind} {j}", _rows(e, j, layer), place, values)


def _cost(outputs: list[int], place: Place, values: Values) -> Element:
    rows = [*((symbols(f"y_{j}"), f"y_{j}") for j in outputs), ("C", "C")]
    return _card("cost", "cost", rows, place, values)


def _card(
    name: str, title: str, rows: list[tuple[str, str]], place: Place, values: Values
) -> Element:
    """A title, and below it a row for each number."""
    left, top = place.x - CARD / 2, place.y - place.height / 2
    inner, outer = left + 10, left + CARD - 10
    shapes: list[Shape] = [
        Box(left, top, CARD, place.height, "card", 9),
        Text(inner, top + ROW - 1, title, "heading", "start"),
    ]
    for number, (sign, key) in enumerate(rows, start=2):
        foot = top + number * ROW
        new = f"new {key}" if sign == "b" else ""
        shapes.append(Text(inner, foot, sign, "name", "start", later=new, later_words="new b"))
        shapes.append(_value(outer, foot, key, values, new))
    return Element(name, title, shapes)


def _value(
    x: float, y: float, key: str, values: Values, later: str = "", look: str = "value"
) -> Text:
    return Text(x, y, values.get(key, UNKNOWN), look, "end", key, later)


def _wire(start: Place, end: Place, look: str) -> Line:
    return Line(start.x, start.y, end.x, end.y, look)


def _share(start: Place, end: Place, layout: Layout, crossing: bool) -> float:
    straight = start.x == end.x or start.y == end.y
    return layout.crossing if crossing and not straight else layout.straight


def _on_wire(start: Place, end: Place, layout: Layout, share: float) -> tuple[float, float]:
    """The point at this share of what is seen of a wire between its two cards."""
    if layout.wide:
        low, high, whole = CARD / 2, end.x - start.x - CARD / 2, end.x - start.x
    else:
        whole = end.y - start.y
        low, high = start.height / 2, whole - end.height / 2
    t = (low + share * (high - low)) / whole
    return start.x + t * (end.x - start.x), start.y + t * (end.y - start.y)


def _plate(name: str, x: float, y: float, values: Values, layout: Layout) -> Element:
    """w_jk and dC/dw_jk on the wire."""
    width, height = layout.plate
    left, right, new = x - width / 2 + 5, x + width / 2 - 5, f"new {name}"
    small, upper, lower = layout.small, y - 4, y + 12
    shapes: list[Shape] = [
        Box(left - 5, y - height / 2, width, height, "plate", 7),
        Text(left, upper, symbols(name), f"{small}name", "start"),
        _value(right, upper, name, values, look=f"{small}value"),
        Text(left, lower, "∂C/∂w", f"{small}name", "start", later=new, later_words="new w"),
        _value(right, lower, f"dC/d{name}", values, new, f"{small}value"),
    ]
    return Element(name, f"weight {symbols(name)}", shapes)
