"""A picture as SVG: inside the page, or as a file of its own in light and dark."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from comparisons.walkthrough.pictures.shapes import (
    COLOURS,
    LOOKS,
    Box,
    Dot,
    Element,
    Line,
    Picture,
    Shape,
    Text,
)

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def style() -> str:
    """CSS: every colour by name, light or dark as the reader has it, and every look."""
    light, dark = (
        " ".join(f"--{name}: {pair[side]};" for name, pair in COLOURS.items()) for side in (0, 1)
    )
    rules = [
        f":root {{ color-scheme: light dark; {light} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}",
        f"svg text {{ font-family: {FONT}; font-variant-numeric: tabular-nums; }}",
    ]
    for name, look in LOOKS.items():
        parts = [f"{part}: {f'var(--{colour})' if colour else 'none'};"
                 for part, colour in (("fill", look.fill), ("stroke", look.stroke))]  # fmt: skip
        parts += [f"stroke-width: {look.width:g};"] if look.stroke else []
        parts += ["stroke-dasharray: 5 4;"] if look.dashed else []
        parts += [f"font-size: {look.size:g}px;"] if look.size else []
        parts += ["font-weight: 600;"] if look.bold else []
        rules.append(f"svg .{name} {{ {' '.join(parts)} }}")
    return "\n".join(rules)


def document(picture: Picture) -> str:
    """A file that shows the picture alone, on paper of its own."""
    paper = Box(0, 0, picture.width, picture.height, "paper")
    opening = _opening(picture, 'xmlns="http://www.w3.org/2000/svg"')
    inside = [f"<style>\n{style()}\n</style>", _shape(paper), *_shapes(picture, False)]
    return "\n".join([opening, *inside, "</svg>\n"])


def element(picture: Picture, attributes: str) -> str:
    """A part of the page: its style is the page's, and its elements can be chosen."""
    return "\n".join([_opening(picture, attributes), *_shapes(picture, True), "</svg>"])


def _opening(picture: Picture, attributes: str) -> str:
    size = f"{picture.width:g} {picture.height:g}"
    label = quoteattr(picture.title)
    return f'<svg {attributes} viewBox="0 0 {size}" role="group" aria-label={label}>'


def _shapes(picture: Picture, chosen: bool) -> list[str]:
    found = []
    for shape in picture.shapes:
        if not isinstance(shape, Element):
            found.append(_shape(shape))
            continue
        focus = f' tabindex="0" role="button" aria-label={quoteattr(shape.title)}'
        opening = f'<g data-name="{shape.name}"{focus if chosen and shape.title else ""}>'
        found += [opening, *(f"  {_shape(inner)}" for inner in shape.shapes), "</g>"]
    return found


def _shape(shape: Shape) -> str:
    match shape:
        case Line(x1, y1, x2, y2, look):
            ends = _numbers(x1=x1, y1=y1, x2=x2, y2=y2)
            return f'<line class="{look}" {ends}/>'
        case Box(x, y, width, height, look, radius):
            corners = _numbers(x=x, y=y, width=width, height=height, rx=radius)
            return f'<rect class="{look}" {corners}/>'
        case Dot(x, y, radius, look, stop):
            return f'<circle class="{look}" data-stop="{stop}" {_numbers(cx=x, cy=y, r=radius)}/>'
        case Text():
            return _text(shape)


def _text(text: Text) -> str:
    words = {"words": text.words, "later-words": text.later_words} if text.later_words else {}
    known = {"key": text.key, "later": text.later, **(words if text.later else {})}
    data = "".join(f" data-{name}={quoteattr(value)}" for name, value in known.items() if value)
    place = f'class="{text.look}" text-anchor="{text.anchor}" {_numbers(x=text.x, y=text.y)}'
    return f"<text {place}{data}>{escape(text.words)}</text>"


def _numbers(**values: float) -> str:
    """Attributes to a tenth of a unit."""
    return " ".join(f'{name}="{round(value, 1):g}"' for name, value in values.items())
