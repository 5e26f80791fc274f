"""A report's event files: what is in the record is what is read back."""

from __future__ import annotations

import builtins
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from manualbp.parity.reports import charts, pictures
from manualbp.parity.reports.page import markdown_report
from manualbp.parity.reports.tensorboard import RunLog, log_report
from manualbp.parity.training_record import CURVE_POINTS, TrainingReport
from tests.parity.samples import curve, sample_gradient_report, sample_training_report

BAD = "adam-float64-seed0"


def read(path: Path) -> EventAccumulator:
    everything = {"scalars": 0, "tensors": 0, "histograms": 0, "images": 0}
    return EventAccumulator(str(path), size_guidance=everything).Reload()


def values(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {e.step: e.tensor_proto.float_val[0] for e in events.Tensors(tag)}


def rounded(points: dict[int, float]) -> dict[int, float]:
    return {step: np.float32(value) for step, value in points.items()}


def test_what_is_in_the_record_is_what_is_read_back(tmp_path: Path) -> None:
    """Bit-exact but for one rounding to float32."""
    report = sample_training_report()
    assert log_report(report, tmp_path, "run") == tmp_path / "run"
    for run in report.runs:
        events = {arm: read(tmp_path / "run" / run.name / arm)
                  for arm in ("candidate", "reference", "parity", "results")}  # fmt: skip
        for arm in ("candidate", "reference"):
            logged = charts.points(run.curves[f"loss/{arm}"])
            assert values(events[arm], f"1_loss/{run.name}") == rounded(logged)
        for tag in set(run.curves) - {"loss/candidate", "loss/reference"}:
            quantity, _, name = tag.partition("/")
            logged = charts.points(run.curves[tag])
            assert values(events["parity"], tag) == rounded(logged)
            if quantity == "share":
                continue
            logarithms = values(events["parity"], f"{charts.LOGARITHMS[quantity]}/{name}")
            steps = range(1 if quantity == "forced" else 2, 61)  # no drift in the first
            assert logarithms == rounded({step: math.log10(logged[step]) for step in steps})
        assert values(events["parity"], charts.EQUAL) == {
            1: 1.0,
            **dict.fromkeys(range(2, 61), 0.0),
        }
        assert values(events["results"], "verdict/agree") == {60: float(run.name != BAD)}
        for arm, tag, found in charts.histograms(run):
            (histogram,) = events[arm].Histograms(tag)
            assert histogram.step == 60
            assert tuple(histogram.histogram_value.bucket) == (0, *found.counts)
            assert tuple(histogram.histogram_value.bucket_limit) == found.edges
    bad, good = (read(tmp_path / "run" / name / "results") for name in (BAD, "sgd-float32-seed0"))
    assert values(bad, "verdict/first_bad_step") == {60: 21.0}
    assert "verdict/first_bad_step" not in good.Tags()["tensors"]
    text = read(tmp_path / "run").Tensors("verdict/text_summary")[0].tensor_proto.string_val[0]
    assert text.decode() == markdown_report(report)


def test_the_layout_names_tags_that_are_there(tmp_path: Path) -> None:
    """Margin charts take tags as they are, Multiline charts anchored regular expressions."""
    log_report(sample_training_report(), tmp_path, "run")
    found = Layout()
    found.ParseFromString(
        read(tmp_path / "run").Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    parity = set(read(tmp_path / "run" / BAD / "parity").Tags()["tensors"])
    titles = [category.title for category in found.category]
    assert titles == [charts.LOSSES, charts.OVERLAYS, charts.LOG_ENVELOPE, charts.ENVELOPE]
    assert [len(chart.multiline.tag) for chart in found.category[0].chart] == [1] * 4
    for category in found.category[2:]:
        assert len(category.chart) == 4
        for chart in category.chart:
            (series,) = chart.margin.series
            assert {series.value, series.lower, series.upper} <= parity
    assert r"^2_log10_drift/0\.weight$" in found.category[1].chart[1].multiline.tag


def test_a_regular_expression_matches_its_tags_and_no_others(tmp_path: Path) -> None:
    """As TensorBoard's server matches: re.match. ``0.weight`` is neither 0xweight nor the start of
    ``0.weight.exp_avg``, and a name may have what an expression gives a meaning to.
    """
    names = ["0.weight", "0xweight", "0.weight.exp_avg", "a+b[0]", "aab0", "w$|^b (c)"]
    report = sample_training_report()
    for run in report.runs:
        for quantity in ("drift", "low", "high", "share", "forced"):
            for number, name in enumerate(names):
                run.curves[f"{quantity}/{name}"] = curve([0.0, 1e-7 * (1 + number)])
    log_report(report, tmp_path, "run")
    tags = {tag for run in report.runs for arm in ("candidate", "reference", "parity")
            for tag in read(tmp_path / "run" / run.name / arm).Tags()["tensors"]}  # fmt: skip
    assert tags >= {f"2_log10_drift/{name}" for name in names}
    drawn = {}
    for title, (kind, patterns) in charts.layout(report)[charts.OVERLAYS].items():
        assert kind == "Multiline"
        matched = [{tag for tag in tags if re.match(p, tag)} for p in patterns]  # type: ignore[attr-defined]
        assert all(len(found) == 1 for found in matched)
        drawn[title] = set().union(*matched)
    assert [len(found) for found in drawn.values()] == [10, 9, 1]
    of_forced, of_drift, _ = drawn.values()
    assert of_drift == {tag for tag in tags if tag.startswith("2_log10_drift/")}
    assert of_forced == {tag for tag in tags if tag.startswith("4_log10_forced/")}


def test_the_two_arms_have_the_same_tags(tmp_path: Path) -> None:
    """So that TensorBoard lays one over the other."""
    log_report(sample_training_report(), tmp_path, "run")
    candidate, reference = (read(tmp_path / "run" / BAD / arm).Tags()
                            for arm in ("candidate", "reference"))  # fmt: skip
    assert candidate == reference and candidate["tensors"] == [f"1_loss/{BAD}"]
    assert len(candidate["histograms"]) == 4


def test_a_long_training_has_as_many_points_as_a_short_one(tmp_path: Path) -> None:
    """At most ``CURVE_POINTS`` and the newest, in every event file."""
    report = sample_training_report(steps=5 * CURVE_POINTS)
    report.runs = report.runs[3:]
    log_report(report, tmp_path, "run")
    for arm in ("candidate", "reference", "parity"):
        events = read(tmp_path / "run" / BAD / arm)
        for tag in events.Tags()["tensors"]:
            assert len(events.Tensors(tag)) <= CURVE_POINTS + 1
    assert max(values(events, "drift/0.bias")) == 5 * CURVE_POINTS
    assert len(values(events, "drift/0.bias")) > CURVE_POINTS // 2


def test_hyperparameters_and_heat_maps_are_read_back(tmp_path: Path) -> None:
    """From the event files: a session's start with its settings, its end, and both pictures."""
    report = sample_training_report()
    log_report(report, tmp_path, "run")
    events = read(tmp_path / "run" / BAD / "results")
    assert "_hparams_/experiment" not in events.summary_metadata  # it would speak for all runs
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.string_value for name, value in settings.items()} == {
        "optimizer": "adam", "dtype": "float64", "seed": "0"
    }  # fmt: skip
    content = events.summary_metadata["_hparams_/session_end_info"].plugin_data.content
    assert HParamsPluginData.FromString(content).session_end_info.status == STATUS_SUCCESS
    events = read(tmp_path / "run" / BAD / "parity")
    drawn = {tag: pixels for folder, tag, pixels in pictures.pictures(report) if BAD in folder}
    assert set(events.Tags()["images"]) == set(drawn) == {"heat_map/drift", "heat_map/forced"}
    for tag, pixels in drawn.items():
        (image,) = events.Images(tag)
        found = imread(io.BytesIO(image.encoded_image_string)) * 255
        assert (found == pixels).all() and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_a_gradient_report_has_its_verdict_and_its_bars(tmp_path: Path) -> None:
    """The picture comes back bit-exact."""
    report = sample_gradient_report()
    events = read(log_report(report, tmp_path, "gradients"))
    (image,) = events.Images("error_over_allowed")
    (tmp_path / "bars.png").write_bytes(image.encoded_image_string)
    assert (imread(tmp_path / "bars.png") * 255 == pictures.bars(report)).all()
    assert (pictures.bars(report) != pictures.bars(sample_gradient_report("agree"))).any()
    text = events.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == markdown_report(report)


def test_a_taken_name_is_refused_and_kept(tmp_path: Path) -> None:
    kept = tmp_path / "run" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match="expected a new run name, got 'run'"):
        log_report(sample_training_report(), tmp_path, "run")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [kept]


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = sample_training_report()
    twice = TrainingReport("a", "b", [report.runs[0], replace(report.runs[0])])
    with pytest.raises(ValueError, match="'sgd-float32-seed0' twice"):
        log_report(twice, tmp_path, "run")
    with pytest.raises(TypeError, match="expected a GradientReport or a TrainingReport, got str"):
        log_report("report", tmp_path, "run")  # type: ignore[arg-type]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "hparams", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log_report(report, tmp_path, "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["matplotlib", "torch.utils.tensorboard"])
def test_without_the_extra_nothing_is_made(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(package):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'in the clone: pip install -e "\.\[parity\]"$'):
        log_report(sample_gradient_report(), tmp_path, "run")
    assert not list(tmp_path.iterdir())


def test_names_of_optimizers_are_no_paths(tmp_path: Path) -> None:
    report = sample_training_report()
    odd = TrainingReport("a", "b", [replace(report.runs[0], optimizer="../<lambda>")])
    log_report(odd, tmp_path, "run")
    assert (tmp_path / "run" / "..__lambda_-float32-seed0" / "parity").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
