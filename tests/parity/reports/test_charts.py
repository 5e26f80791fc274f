"""Points, layout and the largest drift, as data for TensorBoard."""

from __future__ import annotations

import math

import pytest

from manualbp.parity import record
from manualbp.parity.reports import charts
from manualbp.parity.training_record import CURVE_POINTS, Curve, Histogram, Trajectory
from tests.parity.samples import curve, sample_training_report


def test_curves_of_a_margin_chart_have_the_same_steps() -> None:
    """Their peaks stand elsewhere, and TensorBoard draws nothing where steps differ."""
    run = Trajectory("sgd", "float32", 0, 3000, 3000)
    for quantity, peak in (("drift", 1002), ("low", 504), ("high", 2006)):
        run.curves[f"{quantity}/w"] = curve([5.0 * (s == peak) + 1 for s in range(1, 3001)])
    steps = {tuple(points) for _, _, points in charts.curves(run)}
    assert len(steps) == 1 and len(steps.pop()) <= CURVE_POINTS + 1


def test_what_never_drifts_has_no_chart() -> None:
    """Neither has a gradient that is never off; equal tensors are counted."""
    report = sample_training_report("agree")
    for run in report.runs:
        run.curves["drift/0.weight.step"] = curve([0.0, 0.0])
    titles = charts.layout(report)[charts.ENVELOPE]
    assert "drift of 0.weight" in titles and "drift of 0.weight.step" not in titles
    for run in report.runs:
        run.curves = {"drift/0.weight.step": curve([0.0, 0.0]), "forced/0.weight": curve([0.0])}
        run.curves |= {f"{limit}/0.weight.step": curve([0.0, 1.0]) for limit in ("low", "high")}
    shown = charts.layout(report)
    assert list(shown) == [charts.OVERLAYS] and len(shown[charts.OVERLAYS]) == 1
    drawn = {tag: values for _, tag, values in charts.curves(report.runs[0]) if values}
    assert drawn[charts.EQUAL] == {1: 1.0, 2: 1.0} and not any("log10" in tag for tag in drawn)


def test_points_are_bounded_whoever_filled_the_curve() -> None:
    many = Curve(list(range(1, 10_001)), [0.0] * 10_000, last=(10_000, 0.0))
    points = charts.points(many)
    assert len(points) <= CURVE_POINTS + 1 and max(points) == 10_000


def test_equal_has_no_logarithm_and_nan_is_not_equal() -> None:
    found = charts.logarithms({1: 0.0, 2: 1e-7, 3: 5e-324, 4: math.nan, 5: math.inf})
    assert [found[step] for step in (2, 3, 5)] == pytest.approx([-7, -323.3, math.inf], abs=0.1)
    assert list(found) == [2, 3, 4, 5] and math.isnan(found[4])
    assert (
        charts.share_of_equal([0.0, -0.0, math.nan, 1.0]) == 0.5 and charts.share_of_equal([]) == 1
    )


def test_an_envelope_is_drawn_where_there_is_a_drift() -> None:
    """Its three curves at the same steps; a limit of 0 a decade below all that is not 0."""
    run = Trajectory("sgd", "float32", 0, 4, 4)
    for quantity, values in (("drift", [0.0, 1e-6, 1e-5, math.nan]), ("low", [0.0, 0.0, 1e-7, 1.0]),
                             ("high", [1e-9, 1e-4, 1e-4, 1.0])):  # fmt: skip
        run.curves[f"{quantity}/w"] = curve(values)
    found = charts.log_envelope(run, "w")
    assert all(list(by_step) == [2, 3, 4] for by_step in found.values())
    assert list(found["low"].values()) == pytest.approx([-10, -7, 0])
    assert list(found["drift"].values()) == pytest.approx([-6, -5, math.nan], nan_ok=True)


def test_numbers_below_a_histogram_are_short() -> None:
    """Between 1 and 10 times the unit in the tag; the arms of one tensor share it."""
    run = Trajectory("sgd", "float32", 0, 1, 1, histograms={
        "gradients/candidate/w": Histogram((3, 4), (-1.1e-9, 0.0, 1.0e-9)),
        "gradients/reference/w": Histogram((3, 4), (-0.9e-9, 0.0, 0.9e-9)),
        "differences/w": Histogram((1, 6), (0.0, 12.0, 25.0)),
        "differences/b": Histogram((0, 6), (0.0, 0.0, 0.0)),
        "differences/far": Histogram((1, 6), (-3.19562, -3.19560, -3.19558)),
    })  # fmt: skip
    found = {(arm, tag): h.edges for arm, tag, h in charts.histograms(run)}
    assert found == {
        ("candidate", "gradients/w in 1e-10"): pytest.approx((-11, 0, 10)),
        ("reference", "gradients/w in 1e-10"): pytest.approx((-9, 0, 9)),
        ("parity", "differences/w in 1e+01"): pytest.approx((0, 1.2, 2.5)),
        ("parity", "differences/far"): (-3.19562, -3.19560, -3.19558, 0),
        ("parity", "differences/b"): (0, 0, 0),
    }


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
