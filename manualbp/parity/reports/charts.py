"""What TensorBoard shows of a training's record, as data: points, tags, layout, settings.

loss/candidate        -> loss in the folder ``candidate``, loss/reference in ``reference``
drift/T, low/T, high/T, forced/T, log10_error/T (of the drift), log10_low/T, ...: ``parity``
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from manualbp.parity.record import AGREE
from manualbp.parity.training_record import CURVE_POINTS, ArmStep, Curve, TrainingReport, Trajectory

CANDIDATE, REFERENCE, PARITY = "candidate", "reference", "parity"
WHOLE = "."  # the folder of what is said of all trainings
# Tags of a run that is logged step by step.
TRAIN = "train/{}"  # loss, accuracy: of each batch, before the update
VALIDATION = "validation/{}"  # the same on held-out data, after each epoch
LEARNING_RATE = "learning_rate"
GRADIENT_NORM = "gradient_norm/{}"  # per layer
GRADIENTS = "gradients/{}"  # histogram per tensor
WEIGHTS = "weights/{}"  # histogram per tensor
DIVERGENCE = "divergence/{}"
LOG_DIVERGENCE = "log10_divergence/{}"
VERDICT = "verdict"
# Quantity in the record -> the tag of its log10.
LOGARITHMS = {
    "drift": "log10_error", "low": "log10_low", "high": "log10_high", "forced": "log10_forced",
}  # fmt: skip
# Where log10 of 0 is drawn; whatever is not 0 is drawn above it.
BIT_IDENTICAL, SMALLEST = -40.0, -38.0
OVERLAYS = "all in one"
# Only logarithms show float32 and float64 in one chart.
LOG_ENVELOPE, ENVELOPE = "drift in its envelope, log10", "drift in its envelope"
ChartLayout = dict[str, dict[str, list[object]]]


class Share(NamedTuple):
    """A drift over what is allowed: above 1 the training is outside its envelope."""

    value: float
    tensor: str
    step: int


def log_divergence(apart: float) -> float:
    """log10 of a distance, at least ``SMALLEST``; ``BIT_IDENTICAL`` for 0, NaN for NaN."""
    if math.isnan(apart):
        return apart
    return max(math.log10(apart), SMALLEST) if apart > 0 else BIT_IDENTICAL


def logarithms(values: Mapping[int, float]) -> dict[int, float]:
    """log10 by step; 0 lies a decade below the smallest other, or at ``BIT_IDENTICAL``.

    Lower, a single step without a difference would flatten the rest of a chart.
    """
    others = [log_divergence(value) for value in values.values() if value > 0]
    zero = min(others, default=BIT_IDENTICAL + 1) - 1
    return {s: zero if value == 0 else log_divergence(value) for s, value in values.items()}


def points(curve: Curve) -> dict[int, float]:
    """Value by step: ``CURVE_POINTS`` at most, and the newest.

    Curves that grew together have the same steps: a Margin chart needs that.
    """
    stride = -(-len(curve.steps) // CURVE_POINTS) or 1
    found = dict(zip(curve.steps[::stride], curve.values[::stride], strict=True))
    return dict(sorted({**found, **dict([curve.last] if curve.last else [])}.items()))


def folder(run: Trajectory) -> str:
    """The name of a training, as a folder's."""
    return re.sub(r"[^\w.=+-]", "_", run.name)


def located(tag: str) -> tuple[str, str]:
    """The folder that a tag of the record goes to, and the tag there, without the arm's name."""
    parts = tag.split("/", 2)
    if len(parts) > 1 and parts[0] not in LOGARITHMS and parts[1] in (CANDIDATE, REFERENCE):
        return parts[1], "/".join([parts[0], *parts[2:]])
    return PARITY, tag


def curves(run: Trajectory) -> Iterator[tuple[str, str, dict[int, float]]]:
    """Folder, tag and points of every curve, and of its log10 where that says more."""
    for tag, curve in run.curves.items():
        values = points(curve)
        yield (*located(tag), values)
        quantity, _, tensor = tag.partition("/")
        if quantity in LOGARITHMS:
            yield PARITY, f"{LOGARITHMS[quantity]}/{tensor}", logarithms(values)


def with_peaks(run: Trajectory, quantity: str) -> dict[str, dict[int, float]]:
    """Per tensor and step: the curves of a quantity, each with its peak, perhaps no point of it."""
    found = {}
    for tensor in tensors(run, quantity):
        curve = run.curves[f"{quantity}/{tensor}"]
        peak = dict([curve.peak] if curve.peak else [])
        found[tensor] = dict(sorted({**points(curve), **peak}.items()))
    return found


def drift_share(run: Trajectory) -> Share | None:
    """The largest drift over what is allowed; None where nothing was measured."""
    found = [
        Share(value, tensor, step)
        for tensor, by_step in with_peaks(run, "share").items()
        for step, value in by_step.items()
    ]
    return max(found, key=lambda s: math.inf if math.isnan(s.value) else s.value, default=None)


def tensors(run: Trajectory, quantity: str) -> list[str]:
    """The tensors that have a curve of this quantity, in the record's order."""
    return [t.partition("/")[2] for t in run.curves if t.partition("/")[0] == quantity]


def layout(report: TrainingReport) -> ChartLayout:
    """The custom charts: each drift between its limits, and every tensor's curve in one chart.

    TensorBoard takes the tags of a Margin chart as they are, and those of a Multiline chart as
    regular expressions that need only match a beginning. A tensor that never drifts, such as
    Adam's count of steps, has no chart, unless no tensor drifts.
    """
    pairs = [(run, t) for run in report.runs for t in tensors(run, "drift")]
    moved = [(run, t) for run, t in pairs if any(points(run.curves[f"drift/{t}"]).values())]
    drifting = dict.fromkeys(t for _, t in moved or pairs)
    forced = dict.fromkeys(t for run in report.runs for t in tensors(run, "forced"))
    losses = {located(tag)[1]: None for run in report.runs for tag in run.curves
              if located(tag)[0] != PARITY}  # fmt: skip
    logs = {quantity: LOGARITHMS[quantity] for quantity in ("drift", "low", "high")}
    margins: dict[str, list[object]] = {}
    log_margins: dict[str, list[object]] = {}
    for t in drifting:
        margins[f"drift of {t}"] = ["Margin", [f"{quantity}/{t}" for quantity in logs]]
        log_margins[f"log10 of drift of {t}"] = ["Margin", [f"{tag}/{t}" for tag in logs.values()]]
    overlays: dict[str, list[object]] = {
        f"{tag}, candidate and reference": _multiline([tag]) for tag in losses
    }
    if drifting:
        overlays["log10 of every drift"] = _multiline(f"log10_error/{t}" for t in drifting)
    if forced:
        title = "log10 of error over allowed at the reference's state (above 0: wrong)"
        overlays[title] = _multiline(f"log10_forced/{t}" for t in forced)
    found = {OVERLAYS: overlays, LOG_ENVELOPE: log_margins, ENVELOPE: margins}
    return {title: shown for title, shown in found.items() if shown}


def settings(run: Trajectory) -> tuple[dict[str, str], dict[str, float | None]]:
    """The row of a training in the table of hyperparameters: its settings, and its results.

    A result is None where there is none: no drift was measured, no step was bad.
    """
    largest = drift_share(run)
    bad = [first.step for first in (run.outside, run.forced) if first]
    return {"optimizer": run.optimizer, "dtype": run.dtype, "seed": str(run.seed)}, {
        "verdict/agree": float(run.verdict == AGREE),
        "verdict/drift_over_allowed": largest.value if largest else None,
        "verdict/first_bad_step": float(min(bad)) if bad else None,
    }


def scalars(arm: ArmStep) -> dict[str, float]:
    """One arm's numbers of one step by tag."""
    found = {TRAIN.format(name): value for name, value in arm.metrics.items()}
    found[LEARNING_RATE] = arm.learning_rate
    return found | {GRADIENT_NORM.format(k): norm for k, norm in arm.gradient_norms.items()}


def _multiline(tags: Iterable[str]) -> list[object]:
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
