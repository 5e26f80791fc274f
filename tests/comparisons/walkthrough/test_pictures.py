"""The pictures: nothing overlaps, colours can be read, docs show what the command writes."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from comparisons.walkthrough.examples import EXAMPLES, MAZUR, Example
from comparisons.walkthrough.pictures import curves, svg
from comparisons.walkthrough.pictures.network import NARROW, WIDE, Layout, network
from comparisons.walkthrough.pictures.pixels import pixels
from comparisons.walkthrough.pictures.shapes import COLOURS, Box, Picture, Text
from manualbp import reference

DOCS = Path(__file__).parents[3] / "docs/walkthrough"


def overlaps(picture: Picture) -> list[tuple[Box, Box]]:
    boxes = [s for s in picture.flat() if isinstance(s, Box)]
    return [
        (a, b) for a, b in combinations(boxes, 2)
        if a.x < b.x + b.width and b.x < a.x + a.width
        and a.y < b.y + b.height and b.y < a.y + a.height
    ]  # fmt: skip


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("e", EXAMPLES, ids=lambda e: e.name)
def test_nothing_overlaps_or_leaves_the_picture(e: Example, layout: Layout) -> None:
    picture = network(e, {}, layout)
    assert overlaps(picture) == []
    for box in (s for s in picture.flat() if isinstance(s, Box)):
        assert box.x >= 0 and box.x + box.width <= picture.width
        assert box.y >= 0 and box.y + box.height <= picture.height
    assert layout is WIDE or picture.width == 360  # of a phone


def test_an_overlap_is_seen() -> None:
    assert overlaps(network(MAZUR, {}, NARROW._replace(layers=200)))


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "card"])
def test_contrast(ground: str, side: int) -> None:
    """WCAG 2.2: 4.5 for letters, 3 for lines."""
    for name, least in {"ink": 7, "dim": 4.5, "forward": 4.5, "backward": 4.5, "line": 3}.items():
        pair = sorted(luminance(COLOURS[each][side]) + 0.05 for each in (name, ground))
        assert pair[1] / pair[0] >= least, name


def test_docs_show_what_the_command_writes(run: Path) -> None:
    committed = {p.name: p.read_text() for p in DOCS.glob("*.svg")}
    assert committed == {p.name: p.read_text() for p in run.glob("*.svg")}
    for text in committed.values():
        ElementTree.fromstring(text)


def test_the_curve_has_a_point_for_each_stop() -> None:
    costs = {0: 0.5, 1: 0.1, 10: 1e-3, 100: 1e-6}
    drawn = svg.element(curves.cost_curve("c", costs), "")
    assert [drawn.count(f'data-stop="{n}"') for n in range(5)] == [1, 1, 1, 1, 0]
    assert drawn.count('class="curve"') == 3


def test_bars_are_as_long_as_the_logarithms() -> None:
    picture = curves.vanishing_bars({"sigmoid": [1e-4, 1e-2], "relu": [1e-1, 1.0]})
    bars = [s.width for s in picture.flat() if isinstance(s, Box) and s.height > 11.9]
    first, *others = bars[2:]  # after the two of the legend; layer by layer
    assert first == pytest.approx(0)
    assert others == pytest.approx([others[-1] * share for share in (3 / 4, 2 / 4, 1)])


def test_bars_show_references_gradients(run: Path) -> None:
    """The same weights and samples, as torch's seed 0 gives them, through the oracle."""
    generator, width, depth = torch.Generator().manual_seed(0), 16, 12
    weights = [torch.empty(width, width, dtype=torch.float64) for _ in range(depth)]
    for w in weights:
        torch.nn.init.kaiming_normal_(w, nonlinearity="relu", generator=generator)
    x, y = (torch.randn(64, width, generator=generator, dtype=torch.float64).numpy()
            for _ in range(2))  # fmt: skip
    expected = []
    for f in ("sigmoid", "relu"):
        activations = [f] * (depth - 1) + ["identity"]
        network = reference.Network([w.numpy() for w in weights], [None] * depth, activations)
        activity = reference.forward(network, x)
        gradients = reference.backward(
            network, activity, reference.cost(activity.a[-1], y, "mse")[1]
        )
        expected.append([float(np.linalg.norm(g)) for g in gradients.weights])
    drawn = re.findall(r">layer \d+<.*\n.*\n.*>(.+)</text>\n.*\n.*>(.+)</text>",
                       (run / "vanishing.svg").read_text())  # fmt: skip
    shown = [[float(text) for text in pair] for pair in drawn]
    np.testing.assert_allclose(shown, np.transpose(expected), rtol=5.001e-4)


def test_pixels_show_every_shape() -> None:
    picture = network(MAZUR, {}, WIDE)
    drawn = pixels(picture)
    assert drawn.shape == (2 * picture.height, 2 * picture.width, 3)
    card = next(s for s in picture.flat() if isinstance(s, Box) and s.look == "card")
    colour = [int(COLOURS["card"][0][i : i + 2], 16) for i in (1, 3, 5)]
    assert drawn[int(2 * card.y) + 8, int(2 * card.x) + 60].tolist() == colour
    word = next(s for s in picture.flat() if isinstance(s, Text))
    ink = drawn[int(2 * word.y) - 16 : int(2 * word.y), int(2 * word.x) : int(2 * word.x) + 40]
    assert ink.min() < 100


def test_tensorboard_has_the_pictures(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = {e.name: ["picture/network", "picture/cost"] for e in EXAMPLES}
    for folder, expected in {**tags, ".": ["picture/vanishing"]}.items():
        events = EventAccumulator(str(run / folder), {"images": 0}).Reload()
        assert events.Tags()["images"] == expected
