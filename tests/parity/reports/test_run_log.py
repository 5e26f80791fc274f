"""Event files: what was judged is what is read back."""

from __future__ import annotations

import builtins
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from manualbp.parity import Arm, evaluate, train_side_by_side
from manualbp.parity.reports import charts
from manualbp.parity.reports.charts import PARITY
from manualbp.parity.reports.tensorboard import RunLog
from tests.parity import browser


def read(path: Path) -> EventAccumulator:
    everything = {"scalars": 0, "tensors": 0, "histograms": 0}
    return EventAccumulator(str(path), size_guidance=everything).Reload()


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    """Values by step."""
    return {e.step: e.tensor_proto.float_val[0] for e in events.Tensors(tag)}


def test_what_was_judged_is_what_was_logged(tmp_path: Path) -> None:
    """Bit-exact but for one rounding to float32."""
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    candidate = copy.deepcopy(reference)
    candidate[2].weight.register_hook(lambda g: g * 1.01)
    arms = [
        Arm(name, net, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))
        for name, net in (("manual", candidate), ("autograd", reference))
    ]
    data, steps = [(torch.randn(5, 3), torch.randn(5, 1)) for _ in range(7)], []
    with RunLog(tmp_path, "run", ["manual", "autograd", PARITY]) as log:
        for step in train_side_by_side(*arms, data):
            steps.append(step)
            log.step(step, "manual", "autograd")
        validation = evaluate(arms[0], *data[0])
        log.validation("manual", validation, 7)
        log.histograms("manual", candidate, 7)
        log.text(PARITY, "verdict", "| a |\n| - |")

    events = {name: read(tmp_path / "run" / name) for name in ("manual", "autograd", PARITY)}
    for name, arm in (("manual", "candidate"), ("autograd", "reference")):
        for step in steps:
            for tag, value in charts.scalars(getattr(step, arm)).items():
                assert curve(events[name], tag)[step.number] == np.float32(value)
    for step in steps:
        for tensor, apart in step.divergence.items():
            tag = charts.LOG_DIVERGENCE.format(tensor)
            logged = curve(events[PARITY], tag) if apart else {}
            assert (step.number in logged) == (apart != 0)
            assert not apart or logged[step.number] == np.float32(np.log10(apart))
        share = np.mean([apart == 0 for apart in step.divergence.values()])
        assert curve(events[PARITY], charts.EQUAL)[step.number] == np.float32(share) < 1
    assert curve(events["manual"], "1_metrics/loss_validation") == {
        7: np.float32(validation["loss"])
    }
    common = {t for t in events["autograd"].Tags()["tensors"]}
    assert common <= set(events["manual"].Tags()["tensors"])  # same tags, so the curves overlay
    assert {
        "1_metrics/loss_train",
        "learning_rate",
        "2_gradient_norm/0",
        "2_gradient_norm/2",
    } <= common
    histograms = events["manual"].Tags()["histograms"]
    assert set(histograms) == {
        f"{kind}/{name}"
        for kind in ("weights", "gradients")
        for name, _ in candidate.named_parameters()
    }
    (weights,) = events["manual"].Histograms("weights/0.weight")
    values = candidate[0].weight.detach().double()
    assert weights.histogram_value.num == 12
    assert weights.histogram_value.sum == pytest.approx(float(values.sum()), rel=1e-12)
    text = events[PARITY].Tensors("verdict/text_summary")[0].tensor_proto.string_val[0]
    assert text.decode() == "| a |\n| - |"


def test_a_picture_comes_back(tmp_path: Path) -> None:
    """Bit-exact: PNG loses nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with RunLog(tmp_path, "run", ["a"]) as log:
        log.image("a", "picture", pixels)
    (image,) = EventAccumulator(str(tmp_path / "run" / "a")).Reload().Images("picture")
    (tmp_path / "picture.png").write_bytes(image.encoded_image_string)
    assert (imread(tmp_path / "picture.png") * 255 == pixels).all()


def test_a_taken_name_is_refused_and_kept(tmp_path: Path) -> None:
    with RunLog(tmp_path, "run", ["a"]) as log:
        log.scalar("a", "x", 1.0, 0)
    before = sorted(p.stat().st_size for p in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="expected a new run name, got 'run'"):
        RunLog(tmp_path, "run", ["a", "b"])
    assert sorted(p.stat().st_size for p in tmp_path.rglob("*")) == before


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"), RunLog(tmp_path, "run", ["a"]) as log:
        log.scalar("a", "x", 1.5, 3)
        raise RuntimeError("boom")
    assert not list(tmp_path.iterdir())


def test_without_tensorboard_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'in the clone: pip install -e "\.\[parity\]"$'):
        RunLog(tmp_path, "run", ["a"])
    assert not list(tmp_path.iterdir())


def test_a_real_tensorboard_serves_the_curves(tmp_path: Path) -> None:
    """Over HTTP, with TensorBoard's own defaults: what a reader of the page will see."""
    with RunLog(tmp_path, "run", ["a", PARITY]) as log:
        for step in range(3):
            log.scalar("a", "train/loss", 0.5**step, step)
        log.text(PARITY, "verdict", "**fine**")
    with browser.serving(tmp_path, "run/a") as server:
        assert list(server.get("plugin/scalars/tags")["run/a"]) == ["train/loss"]
        curve = server.get("plugin/scalars/scalars?run=run/a&tag=train/loss")
        assert [(step, value) for _, step, value in curve] == [(0, 1.0), (1, 0.5), (2, 0.25)]
        assert server.get("plugin/text/tags") == {"run/parity": ["verdict/text_summary"]}


def test_histograms_stand_at_their_step(tmp_path: Path) -> None:
    with RunLog(tmp_path, "run", ["a"]) as log:
        log.histograms("a", nn.Linear(1, 1), 7)
    (weights,) = read(tmp_path / "run" / "a").Histograms("weights/weight")
    assert weights.step == 7
