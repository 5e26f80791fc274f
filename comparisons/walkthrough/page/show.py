"""What a run shows besides its tables: the page, SVG files, and pictures in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

import manualbp
from comparisons import output
from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.page.build import page
from comparisons.walkthrough.page.record import at, record, values
from comparisons.walkthrough.pictures import svg
from comparisons.walkthrough.pictures.curves import cost_curve, vanishing_bars
from comparisons.walkthrough.pictures.network import WIDE, network
from comparisons.walkthrough.pictures.pixels import pixels
from comparisons.walkthrough.pictures.shapes import Picture
from comparisons.walkthrough.written import short
from manualbp import reference
from manualbp.parity.reports.charts import WHOLE
from manualbp.parity.reports.tensorboard import RunLog

PAGE = "walkthrough.html"


class Training(NamedTuple):
    """An example, its cost at every step, and its network at the steps that are shown."""

    example: Example
    costs: Sequence[float]
    kept: Mapping[int, reference.Network]


def show(trainings: Sequence[Training], norms: Mapping[str, Sequence[float]], log: RunLog) -> bool:
    """Write all of it into the run's folder; whether the arms agree at every step that is shown."""
    found = [{step: at(t.example, network) for step, network in t.kept.items()} for t in trainings]
    agree = all(n.agrees for steps in found for numbers in steps.values() for n in numbers)
    records = [
        record(t.example, t.kept, steps) for t, steps in zip(trainings, found, strict=True)
    ]
    pictures: dict[str, Picture] = {}
    for t, steps in zip(trainings, found, strict=True):
        name, known = t.example.name, values(t.example, t.example.network, steps[0])
        texts = {key: short(value) for key, value in known.items()}
        pictures[f"network-{name}"] = network(t.example, texts, WIDE)
        pictures[f"cost-{name}"] = cost_curve(name, {step: t.costs[step] for step in t.kept})
    pictures["vanishing"] = bars = vanishing_bars(norms)
    for name, picture in pictures.items():
        tag, _, example = name.partition("-")
        log.image(example or WHOLE, f"picture_{tag}", pixels(picture))
    costs = {t.example.name: pictures[f"cost-{t.example.name}"] for t in trainings}
    texts = {f"{name}.svg": svg.document(picture) for name, picture in pictures.items()}
    texts[PAGE] = page([t.example for t in trainings], records, costs, bars, *_words(norms, agree))
    output.write_files(log.path, texts, "--log-dir")
    return agree


def _words(norms: Mapping[str, Sequence[float]], agree: bool) -> tuple[str, str]:
    """What the page says of the deep networks, and of the run."""
    first, last = norms["sigmoid"][0], norms["sigmoid"][-1]
    vanishing = (
        f"Going back, each sigmoid multiplies δ by its slope a (1 − a), which is at most 1/4. After "
        f"{len(norms['sigmoid'])} layers |∂C/∂w| has gone from {short(last)} to {short(first)}, and "
        "the first layers hardly learn. ReLU's slope is 1 where it is on, so its gradient arrives."
    )
    return vanishing, (
        f"manualbp {manualbp.__version__}, PyTorch {torch.__version__}: NumPy node by node, the "
        "hand-written backward and autograd "
        + ("agree on every number here." if agree else "DIFFER on a number here.")
    )
