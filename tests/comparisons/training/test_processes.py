"""The training comparison under torchrun: two real processes, gloo, the same mathematics as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from comparisons.cli import main
from comparisons.training.processes import Group, Launched
from manualbp.parity.reports.charts import EQUAL
from manualbp.parity.step_record import ArmStep, Step

ROOT = Path(__file__).parents[3]
SHORT = ["--epochs", "1", "--batch-size", "479", "--run-name", "mine"]
# What a faulty process does before it runs the command.
GRADIENT_FAULT = """
    forward = manualbp.MLP.forward

    def faulty(self, x):
        output = forward(self, x)
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * 1.001)
        return output

    manualbp.MLP.forward = faulty
"""
UPDATE_FAULT = """
    step, calls = torch.optim.SGD.step, []

    def faulty(self, closure=None):
        step(self, closure)
        calls.append(self)
        if len(calls) == 1:  # the manual arm's first: it goes first in odd steps
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1e-3)

    torch.optim.SGD.step = faulty
"""
SCRIPT = """
import os, sys
from pathlib import Path
import torch
import manualbp
from comparisons.cli import main

if os.environ["RANK"] == "1":{fault}
code = main(sys.argv[1:])
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in threads), threads
Path("code" + os.environ["RANK"]).write_text(str(code))
sys.exit(code)
"""


def launch(
    where: Path, program: list[str], options: list[str], processes: int = 2
) -> subprocess.Popen[str]:
    """torchrun in a folder; ``--standalone`` finds a port that is free."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", str(processes), *program, "training", *options]
    return subprocess.Popen(
        [*command, "--log-dir", str(where / "runs")], cwd=where, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code of torchrun, which is 0 or 1, and what was printed."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def faulty(where: Path, fault: str, *options: str) -> tuple[str, list[str]]:
    """What is printed with a fault planted in process 1, and the exit code of every process."""
    (where / "faulty.py").write_text(SCRIPT.format(fault=fault))
    code, out, _ = finish(launch(where, [str(where / "faulty.py")], [*SHORT, *options]))
    assert code == 1
    return out, [(where / f"code{rank}").read_text() for rank in (0, 1)]


def curve(folder: Path, tag: str) -> list[float]:
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    return [event.tensor_proto.float_val[0] for event in events.Tensors(tag)]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arms bit-exact. Against one process: float64 sums in another order, logged as float32.

    Shares are 240 and 239 rows, and of the last batch's one row 1 and 0.
    """
    options = [*SHORT, "--dtype", "float64", "--epochs", "3"]
    code, out, err = finish(launch(tmp_path, ["-m", "comparisons"], options))
    assert code == 0 and err.strip() == ""
    assert out.count("bit-identical for 12 steps in each of 2 processes") == 1
    assert out.count("Training:") == 1 and "validation accuracy" in out

    run, alone = tmp_path / "runs" / "mine", tmp_path / "alone" / "mine"
    assert {p.name for p in run.iterdir()} == {"autograd", "manual", "parity", "results"}
    assert all(len(list(p.iterdir())) == 1 for p in run.iterdir())  # one process wrote
    assert main(["training", *options, "--log-dir", str(alone.parent)]) == 0
    for tag in (
        "1_metrics/loss_train",
        "1_metrics/accuracy_train",
        "1_metrics/loss_validation",
        "2_gradient_norm/0",
    ):
        ours, theirs = curve(run / "manual", tag), curve(run / "autograd", tag)
        assert ours == theirs and len(ours) in (4, 12)
        assert ours == pytest.approx(curve(alone / "manual", tag), rel=2**-22)
    assert curve(run / "parity", EQUAL) == [1.0] * 12

    events = EventAccumulator(str(run / "parity"), {"tensors": 0}).Reload()
    page = events.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "torchrun --nproc-per-node 2 -m comparisons training --dataset digits" in page
    assert "| processes | 2 |" in page


@pytest.mark.slow
def test_wrong_gradient_in_one_process_turns_all_red(tmp_path: Path) -> None:
    out, codes = faulty(tmp_path, GRADIENT_FAULT)
    assert "DIFFER from step 1 on, first in 0.weight.grad" in out and codes == ["1", "1"]


@pytest.mark.slow
def test_a_difference_seen_by_one_process_alone_turns_all_red(tmp_path: Path) -> None:
    """After the only update nothing is exchanged but the verdict."""
    out, codes = faulty(tmp_path, UPDATE_FAULT, "--batch-size", "1438")
    assert "DIFFER from step 1 on, first in 0.weight;" in out and codes == ["1", "1"]


@pytest.mark.slow
def test_three_processes(tmp_path: Path) -> None:
    """Bit-exact where sums of three are no longer the same in every order."""
    options = ["--widths", "64,100,50,10", "--epochs", "1", "--optimizer", "adam"]
    code, out, _ = finish(launch(tmp_path, ["-m", "comparisons"], options, processes=3))
    assert code == 0 and "bit-identical for 45 steps in each of 3 processes" in out


def refused(where: Path, *options: str) -> str:
    """The one error line of a run that left nothing behind."""
    code, out, err = finish(launch(where, ["-m", "comparisons"], list(options)))
    assert code == 1 and out == "" and err.count("exitcode  : 2") == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_bad_usage_is_said_once(tmp_path: Path) -> None:
    line = refused(tmp_path, "--batch-size", "1")
    assert "expected --batch-size of at least 2, a row for each process, got 1" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "adma"], "did you mean adam"),
        (["--widths", "64,5"], "try --widths 64,128,10"),
        (["--run-name", "taken"], "expected a new run name, got 'taken'"),
    ],
    ids=["parser", "data", "log"],
)
def test_more_bad_usage(options: list[str], message: str, tmp_path: Path) -> None:
    taken = tmp_path / "runs" / "taken"
    taken.mkdir(parents=True)
    assert message in refused(tmp_path, *options)
    assert list(taken.parent.iterdir()) == [taken] and not list(taken.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside(sent: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM to torchrun, Ctrl-C to all, and one process killed: a table and closed files."""
    options = ["--epochs", "1000", "--run-name", "long"]
    process = launch(tmp_path, ["-m", "comparisons"], options)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/long/manual/events*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2.0)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)
        elif sent == signal.SIGTERM:
            process.send_signal(sent)
        else:
            ids = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
            os.kill(int(ids[-1]), sent)
    finally:
        code, out, err = finish(process)
    assert code == 1 and "comparisons/" not in err  # torchrun's own traceback, none of ours
    steps = len(curve(tmp_path / "runs" / "long" / "parity", EQUAL))
    assert f"interrupted after {steps} steps; bit-identical for {steps} steps" in out and steps


def test_a_device_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cpu, cuda, first = torch.device("cpu"), torch.device("cuda"), torch.device("cuda:0")
    second = Launched(rank=1, size=2, local_rank=1, local_size=2)
    assert second.device(cpu) == cpu and Group().device(first) == first and not chosen
    assert second.device(cuda) == torch.device("cuda:1") == chosen[0]
    with pytest.raises(ValueError, match=r"got cuda:0 for all; use --device cuda, which"):
        second.device(first)
    with pytest.raises(ValueError, match=r"each of 3 processes, got 2; use torchrun"):
        Launched(rank=1, size=3, local_rank=1, local_size=3).device(cuda)


def test_a_step_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Largest divergence and time, mean of the metrics; each number stays where it was."""
    theirs = [0.5, 7.0, 3.0, 40.0, 8.0, 0.2, 6.0, 0.6]  # of the other process, in the same order
    sent: list[float] = []
    monkeypatch.setattr(
        Launched, "_gather", lambda _, own: sent.extend(own) or list(zip(own, theirs, strict=True))
    )
    candidate = ArmStep({"loss": 2.0, "accuracy": 0.4}, 0.1, {"0": 1.0}, 5.0)
    reference = ArmStep({"loss": 4.0, "accuracy": 0.8}, 0.1, {"0": 2.0}, 30.0)
    step = Step(9, candidate, reference, {"loss": 1.0, "0.weight": 0.0})
    found = Launched(rank=0, size=2).merge(step)
    assert sent == [1.0, 0.0, 5.0, 30.0, 2.0, 0.4, 4.0, 0.8]
    assert found == Step(
        9,
        ArmStep({"loss": 5.0, "accuracy": pytest.approx(0.3)}, 0.1, {"0": 1.0}, 5.0),
        ArmStep({"loss": 5.0, "accuracy": pytest.approx(0.7)}, 0.1, {"0": 2.0}, 40.0),
        {"loss": 1.0, "0.weight": 7.0},
    )


def test_the_command_that_started_it() -> None:
    assert Group().command == "python"
    assert Launched(0, 4, 0, 4).command == "torchrun --nproc-per-node 4"
    assert Launched(0, 4, 0, 2).command == "torchrun --nnodes 2 --nproc-per-node 2"
