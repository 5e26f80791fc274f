"""The page as one HTML file: template, style, pictures, the run as JSON, and JavaScript."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.pictures import curves, svg
from comparisons.walkthrough.pictures.network import NARROW, WIDE, network
from comparisons.walkthrough.pictures.shapes import Picture

FOLDER = Path(__file__).parent
SCRIPTS = ("state.js", "draw.js", "panel.js", "main.js")  # in this order


def page(
    examples: Sequence[Example], records: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Picture], vanishing: str, footer: str,
) -> str:  # fmt: skip
    """HTML that needs no other file and no network."""
    drawn = [
        svg.element(network(e, {}, layout), f'data-net="{e.name}" class="{kind}"')
        for e in examples
        for kind, layout in (("wide", WIDE), ("narrow", NARROW))
    ]
    buttons = [(e.name, escape(e.title)) for e in examples]
    left, width = (100 * part / curves.WIDTH for part in (curves.LEFT, curves.RIGHT - curves.LEFT))
    parts = {
        "style": f"{svg.style()}\n{_read('page.css')}",
        "buttons": "\n".join(f'    <button type="button" value="{name}">{title}</button>'
                             for name, title in buttons),
        "networks": "\n".join(drawn),
        "costs": "\n".join(
            svg.element(pictures[f"cost-{e.name}"], f'data-net="{e.name}"') for e in examples
        ),
        "slider": f"--left: {left:.2f}%; --width: {width:.2f}%",
        "vanishing": escape(vanishing),
        "bars": svg.element(pictures["vanishing"], 'class="bars"'),
        "footer": escape(footer),
        "run": json.dumps(records, ensure_ascii=False, allow_nan=False).replace("</", "<\\/"),
        "script": "\n".join(map(_read, SCRIPTS)),
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
