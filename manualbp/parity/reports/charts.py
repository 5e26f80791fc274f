"""What TensorBoard shows of a training's record, as data: points, tags, layout, settings.

TensorBoard sorts tags by name and opens the first two groups, where a group is what stands before
the first slash. The numbers put first what a reader wants first. Equal is equal: a difference of 0
has no logarithm and no point there; ``3_equal`` counts the tensors without a difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import nn

from manualbp.parity.record import AGREE
from manualbp.parity.step_record import ArmStep
from manualbp.parity.training_record import (
    CURVE_POINTS,
    Curve,
    Histogram,
    TrainingReport,
    Trajectory,
)

CANDIDATE, REFERENCE, PARITY = "candidate", "reference", "parity"
RESULTS = "results"  # the folder of a row in the table of hyperparameters
WHOLE = "."  # the folder of what is said of all trainings
LOSS = "1_loss/{}"  # of a training of a report
# Of a run that is logged step by step: of each batch before the update, and on held-out data after
# each epoch.
METRIC = "1_metrics/{}_{}"
TRAIN, VALIDATION = "train", "validation"
GRADIENT_NORM = "2_gradient_norm/{}"  # per layer
EQUAL = "3_equal/share_of_tensors"  # 1 where all are
LOG_DIVERGENCE = "4_log10_divergence/{}"  # max |candidate - reference| of a tensor
LEARNING_RATE = "learning_rate"
GRADIENTS = "gradients/{}"  # histogram per tensor
WEIGHTS = "weights/{}"  # histogram per tensor
VERDICT = "verdict"
# Quantity in the record -> the tag of its log10.
LOGARITHMS = {
    "drift": "2_log10_drift", "forced": "4_log10_forced", "low": "log10_low", "high": "log10_high",
}  # fmt: skip
SHARE = "share of tensors that are equal (1: all)"
LOSSES, OVERLAYS = "loss, candidate and reference", "all in one"
# Only logarithms show float32 and float64 in one chart.
LOG_ENVELOPE, ENVELOPE = "drift in its envelope, log10", "drift in its envelope"
ChartLayout = dict[str, dict[str, list[object]]]


class Share(NamedTuple):
    """A drift over what is allowed: above 1 the training is outside its envelope."""

    value: float
    tensor: str
    step: int


def logarithms(values: Mapping[int, float]) -> dict[int, float]:
    """log10 by step, without the steps where the value is 0; NaN stays NaN."""
    return {step: log10(value) for step, value in values.items() if value != 0}


def log10(value: float) -> float:
    """log10 of a number that is not below 0; -inf for 0, NaN for NaN."""
    return math.log10(value) if value != 0 else -math.inf


def share_of_equal(apart: Iterable[float]) -> float:
    """How many of the distances are 0, of all; 1 where there is none."""
    known = [value == 0 for value in apart]
    return sum(known) / len(known) if known else 1.0


def log_envelope(run: Trajectory, tensor: str) -> dict[str, dict[int, float]]:
    """log10 of a drift and of its limits, by quantity, at the same steps: those with a drift.

    A limit of 0 lies a decade below all that is not 0.
    """
    found = {q: points(run.curves[f"{q}/{tensor}"]) for q in ("drift", "low", "high")
             if f"{q}/{tensor}" in run.curves}  # fmt: skip
    floor = min((v for by_step in found.values() for v in by_step.values() if v > 0), default=1.0)
    there = [step for step, value in found["drift"].items()
             if value != 0 and all(step in by_step for by_step in found.values())]  # fmt: skip
    return {
        q: {step: log10(by_step[step] or floor / 10) for step in there}
        for q, by_step in found.items()
    }


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


def curves(run: Trajectory) -> Iterator[tuple[str, str, dict[int, float]]]:
    """Folder, tag and points of every curve, and of its log10 where that says more."""
    for tag, curve in run.curves.items():
        quantity, _, name = tag.partition("/")
        values = points(curve)
        if quantity == "loss":  # name is that of the arm
            yield name, LOSS.format(folder(run)), values
            continue
        yield PARITY, tag, values
        if quantity == "forced":
            yield PARITY, f"{LOGARITHMS[quantity]}/{name}", logarithms(values)
    drifts = tensors(run, "drift")
    for tensor in drifts:
        for quantity, values in log_envelope(run, tensor).items():
            yield PARITY, f"{LOGARITHMS[quantity]}/{tensor}", values
    apart: dict[int, list[float]] = {}
    for tensor in drifts:
        for step, value in points(run.curves[f"drift/{tensor}"]).items():
            apart.setdefault(step, []).append(value)
    yield PARITY, EQUAL, {step: share_of_equal(values) for step, values in apart.items()}


def histograms(run: Trajectory) -> Iterator[tuple[str, str, Histogram]]:
    """Folder, tag and histogram, in a unit that keeps the numbers below its axis short.

    The unit is a power of ten, the same for both arms, and stands in the tag: ``differences/0.bias
    in 1e-09``. An empty bin goes on to 0 where it lies outside.
    """
    for tag, found in run.histograms.items():
        what, _, name = tag.partition("/")
        arm, _, tensor = name.partition("/") if what == "gradients" else (PARITY, "", name)
        other = run.histograms.get(f"{what}/{REFERENCE}/{tensor}", found)
        largest = max(map(abs, other.edges))
        power = math.floor(math.log10(largest)) if 0 < largest < math.inf else 0
        edges, counts = tuple(edge / 10.0**power for edge in found.edges), found.counts
        if edges[0] > 0:
            edges, counts = (0.0, *edges), (0, *counts)
        elif edges[-1] < 0:
            edges, counts = (*edges, 0.0), (*counts, 0)
        unit = f" in 1e{power:+03d}" if power else ""
        yield arm, f"{what}/{tensor}{unit}", Histogram(counts, edges)


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
    """The custom charts: the losses, every drift in one, each drift between its limits.

    TensorBoard takes the tags of a Margin chart as they are, and those of a Multiline chart as
    regular expressions that need only match a beginning. A tensor that never drifts, such as
    Adam's count of steps, has no chart; neither has a gradient that is never off.
    """
    drifting, forced = (
        list(dict.fromkeys(t for run in report.runs for t in tensors(run, quantity)
                           if any(points(run.curves[f"{quantity}/{t}"]).values())))
        for quantity in ("drift", "forced")
    )  # fmt: skip
    losses = {f"loss of {run.name}": _multiline([LOSS.format(folder(run))]) for run in report.runs
              if tensors(run, "loss")}  # fmt: skip
    margins: dict[str, list[object]] = {}
    log_margins: dict[str, list[object]] = {}
    limits = ("drift", "low", "high")
    for t in drifting:
        margins[f"drift of {t}"] = ["Margin", [f"{quantity}/{t}" for quantity in limits]]
        tags = [f"{LOGARITHMS[quantity]}/{t}" for quantity in limits]
        log_margins[f"log10 of drift of {t}"] = ["Margin", tags]
    overlays: dict[str, list[object]] = {}
    for title, quantity, names in (
        ("log10 of error over allowed at the reference's state (above 0: wrong)", "forced", forced),
        ("log10 of every drift", "drift", drifting),
    ):
        if names:
            overlays[title] = _multiline(f"{LOGARITHMS[quantity]}/{name}" for name in names)
    overlays[SHARE] = _multiline([EQUAL])
    found = {LOSSES: losses, OVERLAYS: overlays, LOG_ENVELOPE: log_margins, ENVELOPE: margins}
    return {title: shown for title, shown in found.items() if shown}


def step_layout(metrics: Iterable[str], module: nn.Module) -> ChartLayout:
    """The custom charts of a run that is logged step by step: both arms in each chart."""
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name, _ in module.named_parameters())
    shown = {f"{where} {name}": _multiline([METRIC.format(name, where)])
             for name in metrics for where in (TRAIN, VALIDATION)}  # fmt: skip
    shown |= {f"gradient norm of {layer}": _multiline([GRADIENT_NORM.format(layer)])
              for layer in layers}  # fmt: skip
    shown[SHARE] = _multiline([EQUAL])
    divergences = [f"^{LOG_DIVERGENCE.format('')}"]
    shown["log10 of divergence (nothing: every bit is equal)"] = ["Multiline", divergences]
    return {"both arms": shown}


def settings(run: Trajectory) -> tuple[dict[str, str | float], dict[str, float | None]]:
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
    found = {METRIC.format(name, TRAIN): value for name, value in arm.metrics.items()}
    found[LEARNING_RATE] = arm.learning_rate
    return found | {GRADIENT_NORM.format(k): norm for k, norm in arm.gradient_norms.items()}


def _multiline(tags: Iterable[str]) -> list[object]:
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
