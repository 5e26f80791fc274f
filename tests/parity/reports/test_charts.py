"""Points, layout and the largest drift, as data for TensorBoard."""

from __future__ import annotations

import math

import pytest

from manualbp.parity import record
from manualbp.parity.reports import charts
from manualbp.parity.training_record import CURVE_POINTS, Curve, Trajectory
from tests.parity.samples import curve, sample_training_report


def test_curves_of_a_margin_chart_have_the_same_steps() -> None:
    """Their peaks stand elsewhere, and TensorBoard draws nothing where steps differ."""
    run = Trajectory("sgd", "float32", 0, 3000, 3000)
    for quantity, peak in (("drift", 1002), ("low", 504), ("high", 2006)):
        run.curves[f"{quantity}/w"] = curve([5.0 * (s == peak) + 1 for s in range(1, 3001)])
    steps = {tuple(points) for _, _, points in charts.curves(run)}
    assert len(steps) == 1 and len(steps.pop()) <= CURVE_POINTS + 1


def test_what_never_drifts_has_no_chart_unless_nothing_does() -> None:
    report = sample_training_report("agree")
    for run in report.runs:
        run.curves["drift/0.weight.step"] = curve([0.0, 0.0])
    titles = charts.layout(report)[charts.ENVELOPE]
    assert "drift of 0.weight" in titles and "drift of 0.weight.step" not in titles
    for run in report.runs:
        run.curves = {"drift/0.weight.step": curve([0.0, 0.0])}
    assert list(charts.layout(report)[charts.ENVELOPE]) == ["drift of 0.weight.step"]


def test_points_are_bounded_whoever_filled_the_curve() -> None:
    many = Curve(list(range(1, 10_001)), [0.0] * 10_000, last=(10_000, 0.0))
    points = charts.points(many)
    assert len(points) <= CURVE_POINTS + 1 and max(points) == 10_000


def test_zero_stays_below_its_chart_and_nan_is_no_zero() -> None:
    found = charts.logarithms({1: 0.0, 2: 1e-7, 3: 1e-5, 4: math.nan})
    assert [found[step] for step in (1, 2, 3)] == pytest.approx([-8, -7, -5])
    assert math.isnan(found[4])
    assert set(charts.logarithms({1: 0.0, 2: 0.0}).values()) == {charts.BIT_IDENTICAL}


def test_the_largest_drift_and_nan() -> None:
    run = sample_training_report().runs[3]
    largest = charts.drift_share(run)
    assert largest and largest.tensor == "0.bias" and largest.step >= 21 and largest.value > 1
    excursion = Curve([1, 2], [0.5, 0.5], peak=(77, 99.0))  # of a step that no point is kept of
    run.curves["share/0.weight"] = excursion
    assert charts.drift_share(run) == (99.0, "0.weight", 77)
    run.curves["share/2.bias"] = curve([1e-9, math.nan])
    largest = charts.drift_share(run)
    assert largest and largest.tensor == "2.bias" and math.isnan(largest.value)
    assert record.over(0.0, 0.0) == 0.0 and record.over(1e-9, 0.0) == math.inf
