"""A process that is killed, told to end or stopped by Ctrl-C, and what is in its file then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from manualbp.parity.reports.json_format import to_json
from manualbp.parity.training_record import Trajectory
from manualbp.parity.trajectories.signals import SIGNALS, held
from tests.parity.trajectories.test_checkpoint import compare

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return to_json(compare(None))


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.parity.trajectories.test_checkpoint import compare

def on_step(run):
    if (run.optimizer, run.seed, run.steps) == ("sgd", 3, 7):
        print("there", flush=True)
        sys.stdin.read(1)  # until it is killed, or told to go on

compare(Path(sys.argv[1]), on_step)
print("not stopped", flush=True)
"""


def process_at_step_7(file: Path) -> subprocess.Popen[str]:
    """A process that has done seven steps of the second training and waits."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the order of sums
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file), str(ROOT)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, **threads},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path, undisturbed: str) -> None:
    file = tmp_path / "run.ckpt"
    process = process_at_step_7(file)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]
    assert to_json(compare(file)) == undisturbed


@pytest.mark.slow
def test_sigterm_writes_the_step_and_ends_the_process(tmp_path: Path, undisturbed: str) -> None:
    """The second training to its end, whose last steps would have been lost."""
    file = tmp_path / "run.ckpt"
    process = process_at_step_7(file)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate("\n")  # let it do its 8th step, the last
    assert process.returncode == -signal.SIGTERM and output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]
    seen: list[tuple[str, int, int]] = []
    report = compare(file, lambda run: seen.append((run.optimizer, run.seed, run.steps)))
    assert seen[0] == ("adam", 0, 1)
    assert to_json(report) == undisturbed


def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path: Path, undisturbed: str) -> None:
    file = tmp_path / "run.ckpt"

    def on_step(run: Trajectory) -> None:
        if (run.optimizer, run.seed, run.steps) == ("sgd", 0, 4):
            signal.raise_signal(signal.SIGINT)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    report = compare(file, on_step)
    assert report.interrupted and [run.steps for run in report.runs] == [5]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    seen: list[int] = []
    assert to_json(compare(file, lambda run: seen.append(run.steps))) == undisturbed
    assert seen[0] == 6


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_the_second_signal_does_not_wait() -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), held(True) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.waiting == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")
    assert handlers() == before


def test_what_waits_is_delivered_at_the_end() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), held(True):
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with held(True) as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.waiting == []
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_child_process_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would never deliver what waits: readers of data could not be ended."""
    with pytest.raises(KeyboardInterrupt), held(True):
        monkeypatch.setattr(os, "getpid", lambda: 0)  # as after a fork
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")


def test_without_a_file_or_in_another_thread_nothing_is_held() -> None:
    before, seen = handlers(), []

    def look() -> None:
        with held(True):
            seen.append(handlers())

    with held(False):
        seen.append(handlers())
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before, before]
