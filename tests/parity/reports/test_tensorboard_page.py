"""What TensorBoard's reader sees of a report: over HTTP, and in the browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from manualbp.parity.reports import charts
from manualbp.parity.reports.tensorboard import log_report
from tests.parity import browser
from tests.parity.samples import sample_gradient_report, sample_training_report

BAD = "adam-float64-seed0"


def rounded(points: dict[int, float]) -> dict[int, float]:
    return {step: np.float32(value) for step, value in points.items()}


def test_a_real_tensorboard_serves_the_report(tmp_path: Path) -> None:
    """Over HTTP with TensorBoard's own defaults, and in the page where there is a Chromium."""
    report = sample_training_report()
    log_report(report, tmp_path, "digits")
    bad = f"digits/{BAD}/parity"
    with browser.serving(tmp_path, bad) as server:
        served = server.get(f"plugin/scalars/scalars?run={bad}&tag=drift/0.bias")
        expected = rounded(charts.points(report.runs[3].curves["drift/0.bias"]))
        assert {step: value for _, step, value in served} == expected
        layout = server.get("plugin/custom_scalars/layout")
        assert [c["title"] for c in layout["category"]] == [
            charts.LOSSES, charts.OVERLAYS, charts.LOG_ENVELOPE, charts.ENVELOPE
        ]  # fmt: skip
        overlay = layout["category"][0]["chart"][3]["multiline"]["tag"][0]
        for arm in ("candidate", "reference"):
            run = quote(f"digits/{BAD}/{arm}")
            found = server.get(f"plugin/custom_scalars/scalars?run={run}&tag={quote(overlay)}")
            assert found["regex_valid"] and len(found["tag_to_events"][f"1_loss/{BAD}"]) == 60
        rows = browser.sessions(server)
        assert set(rows) == {f"digits/{run.name}/results" for run in report.runs}
        settings, results = rows[f"digits/{BAD}/results"]
        assert settings["optimizer"] == "adam"
        assert results["verdict/agree"] == 0 and results["verdict/first_bad_step"] == 21
        (image,) = server.get(f"plugin/images/images?run={quote(bad)}&tag=heat_map/forced&sample=0")
        picture = server.raw(f"plugin/images/individualImage?{image['query']}")
        assert picture.startswith(b"\x89PNG")
        (text,) = server.get("plugin/text/text?run=digits&tag=verdict/text_summary")
        assert "<strong>DIFFER: 1 of 4 trainings" in text["text"]


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium or google-chrome on the PATH")
def test_the_page_shows_the_report(tmp_path: Path) -> None:
    """What a reader sees in the browser: charts with matches, the table of trainings, words."""
    logs = tmp_path / "runs"
    log_report(sample_training_report(), logs, "digits")
    log_report(sample_gradient_report(), logs, "gradients")
    pages = {
        "custom_scalars": "Matches (16)",  # 4 tensors of 4 trainings in one chart
        "hparams": "11.236",  # its largest drift over allowed
        "text": "look first at fc2.weight.grad",
        "images": "heat_map/forced",
    }
    (tmp_path / "empty").mkdir()
    with (
        browser.serving(logs, f"digits/{BAD}/parity") as server,
        browser.serving(tmp_path / "empty", None) as empty,
    ):
        urls = [*(f"{server.url}/#{page}" for page in pages), empty.url]
        wanted = [*pages.values(), "No dashboards are active"]
        *texts, nothing = browser.texts(urls, wanted, tmp_path / "profile")
    assert wanted[-1] in nothing and not any(words in nothing for words in pages.values())
    found = dict(zip(pages, texts, strict=True))
    for page, wanted in pages.items():
        assert wanted in found[page], (page, found[page][-2000:])
    custom = found["custom_scalars"]
    assert f"digits/{BAD}/candidate" in custom and "log10 of drift of 0.bias" in custom
    assert "drift of 2.weight" in custom and f"loss of {BAD}" in custom
    assert "verdict/first_bad_step" in found["hparams"] and "21.000" in found["hparams"]
