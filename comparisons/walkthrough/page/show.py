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
    """Write it into the run's folder if the arms agree at every step; whether they do.

    Raises:
        UsageError: the folder cannot be written.
    """
    found = [{step: at(t.example, network) for step, network in t.kept.items()} for t in trainings]
    if not all(n.agrees for steps in found for numbers in steps.values() for n in numbers):
        return False
    pictures: dict[str, Picture] = {"vanishing": vanishing_bars(norms)}
    for t, steps in zip(trainings, found, strict=True):
        known = values(t.example, t.example.network, steps[0])
        texts = {key: short(value) for key, value in known.items()}
        pictures[f"network-{t.example.name}"] = network(t.example, texts, WIDE)
        costs = {step: t.costs[step] for step in t.kept}
        pictures[f"cost-{t.example.name}"] = cost_curve(t.example.name, costs)
    for name, picture in pictures.items():
        what, _, folder = name.partition("-")
        log.image(folder or WHOLE, f"picture/{what}", pixels(picture))
    records = [record(t.example, t.kept, each) for t, each in zip(trainings, found, strict=True)]
    files = {f"{name}.svg": svg.document(picture) for name, picture in pictures.items()}
    files[PAGE] = page([t.example for t in trainings], records, pictures, *_words(norms))
    output.write_files(log.path, files, "--log-dir")
    return True


def _words(norms: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """What the page says of the deep networks, and of the run."""
    first, last = norms["sigmoid"][0], norms["sigmoid"][-1]
    vanishing = (
        "Going back, each sigmoid multiplies δ by its slope a (1 − a), which is at most 1/4. After "
        f"{len(norms['sigmoid'])} layers |∂C/∂w| has gone from {short(last)} to {short(first)}: "
        "the first layers hardly learn. ReLU's slope is 1 where it is on, so its gradient arrives."
    )
    return vanishing, (
        f"manualbp {manualbp.__version__}, PyTorch {torch.__version__}: NumPy node by node, the "
        "hand-written backward and autograd agree on every number here."
    )
