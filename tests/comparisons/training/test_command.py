"""The training comparison, end to end on real data."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from comparisons import machine
from comparisons.cli import main
from comparisons.output import Table
from comparisons.training import command, data, loop
from manualbp.maths.layers import Linear
from manualbp.parity.cli.options import Parser
from manualbp.parity.reports import charts
from manualbp.parity.reports.tensorboard import log_report
from manualbp.parity.step_record import ArmStep, SideBySide, Step
from manualbp.parity.trajectories.side_by_side import train_side_by_side
from tests.parity import browser
from tests.parity.samples import sample_training_report

ROOT = Path(__file__).parents[3]


def report_of(steps: int, *options: str) -> SideBySide:
    """Steps of both arms with these options of the command line, without logging."""
    parser = Parser()
    command.add_arguments(parser)
    args = parser.parse_args(options)
    dataset = data.load(args.dataset, args.seed).to(args.device, args.dtype)
    command.complete(args, dataset)
    stream = data.batches(dataset, args.batch_size, steps, args.seed)
    found = SideBySide()
    arms = loop.build_arms(args, dataset.classification)
    for step in train_side_by_side(*arms, islice(stream, steps)):
        found.add(step)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_thousand_steps_on_digits(optimizer: str, dtype: str) -> None:
    """Bit-exact: losses, gradients and parameters; and the training learns."""
    found = report_of(1000, "--optimizer", optimizer, "--dtype", dtype)
    assert found.bit_identical and found.steps == 1000
    assert found.last is not None and found.last.candidate.metrics["loss"] < 0.1


@pytest.mark.parametrize("optimizer", loop.OPTIMIZERS)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu"])
def test_regression(optimizer: str, activation: str) -> None:
    """Bit-exact, each optimizer, in bfloat16 as well."""
    for dtype in ("float32", "bfloat16"):
        found = report_of(
            50, "--dataset", "diabetes", "--optimizer", optimizer, "--activation", activation,
            "--dtype", dtype, "--widths", "10,16,8,1",
        )  # fmt: skip
        assert found.bit_identical


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "2", "--log-dir", str(tmp_path), "--run-name", "mine", "--lr", "0.05"]
    assert main(["training", *options]) == 0
    printed = capsys.readouterr().out
    assert "bit-identical for 90 steps" in printed and "validation accuracy" in printed
    assert f"tensorboard --logdir {tmp_path}, then open http://localhost:6006 (run mine)" in printed

    names = {"autograd", "manual", "parity", "results"}
    assert {p.name for p in (tmp_path / "mine").iterdir()} == names
    everything = {"scalars": 0, "tensors": 0}
    events = {
        p.name: EventAccumulator(str(p), everything).Reload() for p in (tmp_path / "mine").iterdir()
    }
    tags = events["manual"].Tags()["tensors"]
    assert tags == events["autograd"].Tags()["tensors"]
    first, second = (charts.METRIC.format(name, "{}") for name in ("accuracy", "loss"))
    opened = [first.format("train"), first.format("validation"), second.format("train"),
              second.format("validation"), "2_gradient_norm/0", "2_gradient_norm/2"]  # fmt: skip
    assert sorted(tags)[:6] == opened  # TensorBoard sorts them, and opens the first two groups
    for tag in tags:  # the two curves lie on each other
        curves = [
            [(e.step, tuple(e.tensor_proto.float_val)) for e in events[arm].Tensors(tag)]
            for arm in ("manual", "autograd")
        ]
        assert curves[0] == curves[1] and len(curves[0]) in (3, 90)
    page = events["parity"].Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "bit-identical for 90 steps" in page and "| lr | 0.05 |" in page
    # Equal is shown as equal: no difference is drawn as a number.
    parity = events["parity"].Tags()["tensors"]
    assert [t for t in parity if re.match(r"\d", t)] == [charts.EQUAL]
    assert {e.tensor_proto.float_val[0] for e in events["parity"].Tensors(charts.EQUAL)} == {1.0}


def test_several_optimizers_stand_in_one_table(tmp_path: Path) -> None:
    """HParams as TensorBoard serves them, with a run of another kind beside; the layout, too."""
    for optimizer, dataset in (("sgd", "digits"), ("adam", "digits"), ("descent", "diabetes")):
        options = ["--optimizer", optimizer, "--dataset", dataset, "--epochs", "1"]
        assert (
            main(["training", *options, "--log-dir", str(tmp_path), "--run-name", optimizer]) == 0
        )
    log_report(sample_training_report(), tmp_path, "report")
    with browser.serving(tmp_path, "descent/results") as server:
        rows = browser.sessions(server)
        layout = server.get("plugin/custom_scalars/layout")
        runs = server.get("runs")
    assert set(rows) == {f"{o}/results" for o in ("sgd", "adam", "descent")} | {
        run for run in runs if run.startswith("report/") and run.endswith("/results")
    }
    assert len(rows) == 7
    settings, results = rows["adam/results"]
    assert settings["optimizer"] == "adam" and settings["lr"] == 1e-3
    assert results["results/bit_identical"] == 1 and results["results/steps"] == 45
    accuracy = results["results/validation_accuracy_manual"]
    assert accuracy == results["results/validation_accuracy_autograd"] > 0.5
    assert "results/validation_accuracy_manual" not in rows["descent/results"][1]
    assert rows["report/adam-float64-seed0/results"][1]["verdict/agree"] == 0
    titles = {c["title"]: [chart["title"] for chart in c["chart"]] for c in layout["category"]}
    assert titles["both arms"][:6] == [
        "train loss", "validation loss", "train accuracy", "validation accuracy",
        "gradient norm of 0", "gradient norm of 2",
    ]  # fmt: skip


def test_a_run_says_on_which_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its folder's name, on its page and where it is printed, with the date."""
    monkeypatch.setattr(machine, "name", lambda device: "NVIDIA H100 80GB HBM3")
    assert main(["training", "--epochs", "1", "--log-dir", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    assert run.name.startswith("digits-sgd-nvidia-h100-80gb-hbm3-20")
    assert "\nNVIDIA H100 80GB HBM3, " in capsys.readouterr().out
    events = EventAccumulator(str(run / "parity"), {"tensors": 0}).Reload()
    page = events.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| device | NVIDIA H100 80GB HBM3 |" in page and "| date | 20" in page
    assert "--device cpu" in page.partition("Run it again")[2]


def test_the_logged_command_runs_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--activation", "tanh", "--seed", "7", "--batch-size", "50"]
    assert main(["training", *options, "--log-dir", str(tmp_path), "--run-name", "one"]) == 0
    first = capsys.readouterr().out
    events = EventAccumulator(str(tmp_path / "one" / "parity"), {"tensors": 0}).Reload()
    page = events.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    command = page.partition("python -m comparisons ")[2].partition("`")[0].split()
    assert main([*command, "--log-dir", str(tmp_path), "--run-name", "two"]) == 0
    second = capsys.readouterr().out

    def results(printed: str) -> list[str]:
        return [line for line in printed.splitlines() if "loss" in line or "accuracy" in line]

    assert results(first) == results(second) and len(results(first)) == 5


@pytest.mark.usefixtures("in_python")  # the faults are planted there
def test_a_planted_fault_turns_it_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Linear.backward

    def missing_bias(self, delta, needs, tape, grads, *how):  # type: ignore[no-untyped-def]
        grad_h = original(self, delta, needs, tape, grads, *how)
        grads[-2] = None if grads[-2] is None else torch.zeros_like(grads[-2])
        return grad_h

    monkeypatch.setattr(Linear, "backward", missing_bias)
    for optimizer in loop.OPTIMIZERS:
        options = ["--epochs", "1", "--optimizer", optimizer, "--log-dir", str(tmp_path)]
        assert main(["training", *options, "--run-name", optimizer]) == 1
        assert "DIFFER from step 1 on, first in 0.bias.grad" in capsys.readouterr().out


def test_a_diverged_training_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--lr", "1e6", "--epochs", "2", "--dataset", "diabetes", "--log-dir", str(tmp_path)]
    assert main(["training", *options]) == 0
    printed = capsys.readouterr().out
    assert "bit-identical" in printed and "training diverged, lower --lr" in printed


@pytest.mark.slow
def test_ctrl_c_leaves_a_table_and_closed_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "comparisons", "training", "--epochs", "200"]
    command += ["--log-dir", str(tmp_path), "--run-name", "long"]
    # A shell may start its background jobs with SIGINT ignored, and children inherit that.
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("long/manual/events*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in err
    assert "interrupted after" in out and "bit-identical for" in out
    events = EventAccumulator(str(tmp_path / "long" / "parity"), {"tensors": 0}).Reload()
    steps = len(events.Tensors(charts.EQUAL))
    # The signal may come between a step's entry in the report and in the log.
    assert any(f"interrupted after {n} steps" in out for n in (steps, steps + 1))
    page = events.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "interrupted after" in page


def test_arms_start_equal_and_apart() -> None:
    """One seed, the same weights, no shared storage; other seeds give other weights."""
    weights = []
    for seed in ("0", "0", "1"):
        parser = Parser()
        command.add_arguments(parser)
        args = parser.parse_args(["--seed", seed])
        dataset = data.load("digits", 0).to(args.device, args.dtype)
        command.complete(args, dataset)
        manual, autograd = loop.build_arms(args, dataset.classification)
        pairs = zip(manual.module.parameters(), autograd.module.parameters(), strict=True)
        packages = [type(m).__module__.split(".")[0] for m in
                    (manual.module, manual.loss, autograd.module, autograd.loss)]  # fmt: skip
        assert packages == ["manualbp", "manualbp", "torch", "torch"]
        for ours, theirs in pairs:
            assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()
        weights.append(manual.module[0].weight.detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_what_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms under their names, validation on held-out rows, the threads that were asked for."""
    seen: dict[str, set[object]] = {"arms": set(), "rows": set(), "threads": set()}
    evaluate, step = loop.evaluate, loop.RunLog.step
    monkeypatch.setattr(torch, "set_num_threads", seen["threads"].add)
    monkeypatch.setattr(
        loop, "evaluate", lambda arm, x, y: seen["rows"].add(len(x)) or evaluate(arm, x, y)
    )
    monkeypatch.setattr(
        loop.RunLog, "step", lambda log, s, *arms: seen["arms"].add(arms) or step(log, s, *arms)
    )
    options = ["--epochs", "1", "--threads", "1", "--log-dir", str(tmp_path)]
    assert main(["training", *options]) == 0
    assert seen == {"arms": {("manual", "autograd")}, "rows": {359}, "threads": {1}}


def test_the_summary_of_arms_that_differ() -> None:
    """Autograd's column first; of times the median, in milliseconds."""

    def arm(loss: float, seconds: float) -> ArmStep:
        return ArmStep({"loss": loss, "accuracy": loss / 8}, 0.1, {}, seconds)

    progress = loop.Progress(validation={"autograd": {"loss": 1.0}, "manual": {"loss": 2.0}})
    for number, seconds in enumerate([0.001, 0.002, 0.009], start=1):
        progress.report.add(Step(number, arm(number, seconds), arm(number + 4, 2 * seconds), {}))
    assert loop.summary(progress, "") == Table("", ["", "autograd", "manual"], [
        ["train loss, last batch", "7", "3"],
        ["train accuracy, last batch", "0.875", "0.375"],
        ["validation loss", "1", "2"],
        ["ms per step, median", "4.000", "2.000"],
    ])  # fmt: skip
