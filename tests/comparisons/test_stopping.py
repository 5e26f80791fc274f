"""Signals and closed pipes: one line, the documented exit code, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from comparisons.__main__ import main
from comparisons.gradients import command as gradients
from comparisons.stopping import Stopped, by_signals

ROOT = Path(__file__).parents[2]
# Sends itself the signal of its first argument where the second is called, then runs the rest.
PROGRAM = """
import importlib, os, runpy, sys
number, place, sys.argv = int(sys.argv[1]), sys.argv[2], ["comparisons", *sys.argv[3:]]
def stop(*_):
    os.kill(os.getpid(), number)
if place == "import":
    class Finder:
        def find_spec(self, name, *rest):
            if name == "torch.nn":
                sys.meta_path.remove(self)
                stop()
    sys.meta_path.insert(0, Finder())
else:
    module, name = place.split(":")
    owner = importlib.import_module(module)
    *parts, name = name.split(".")
    for part in parts:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    def once(*args, **options):
        setattr(owner, name, original)
        stop()
        return original(*args, **options)
    setattr(owner, name, once)
runpy.run_module("comparisons", run_name="__main__", alter_sys=True)
"""
SKLEARN = "sklearn.neural_network:MLPRegressor._backprop"
PLACES = [
    ("import", ["training"]), ("sklearn.datasets:load_digits", ["training"]),
    ("comparisons.walkthrough.command:vanishing", ["walkthrough"]),
    (SKLEARN, ["speed", "--quick", "--only", "depth", "--output", "out"]),
]  # fmt: skip


def run(arguments: list[str], where: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Python with these arguments; SIGINT as in a terminal."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=where, text=True, stderr=subprocess.PIPE, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("place", "command"), PLACES, ids=["import", "data", "walk", "sklearn"])
def test_a_signal_is_one_line(
    number: signal.Signals, place: str, command: list[str], tmp_path: Path
) -> None:
    """scikit-learn's fit ends quietly after a KeyboardInterrupt, as if nothing had been."""
    options = [str(int(number)), place, *command]
    done = run(["-W", "ignore", "-c", PROGRAM, *options], tmp_path, stdout=subprocess.PIPE)
    assert done.returncode == 128 + number, done
    if command[0] == "speed":  # it says what it has measured, and that it was interrupted
        assert done.stderr == "" and "interrupted after" in done.stdout
    else:
        assert done.stderr == "interrupted\n"
        assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
@pytest.mark.parametrize("line", [
    "walkthrough", "training --epochs 1", "gradients --activation tanh --dtype float64",
])  # fmt: skip
def test_a_reader_that_goes_away(line: str, tmp_path: Path) -> None:
    """As ``head -1`` does. A run is whole, or it is not there."""
    out, into = os.pipe()
    os.close(out)
    done = run(["-m", "comparisons", *line.split()], tmp_path, stdout=into)
    os.close(into)
    assert done.returncode == 141
    assert done.stderr == "standard output was closed before all was printed\n"
    assert len(list(tmp_path.glob("runs/*"))) == line.startswith("training")


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 2_000, 20_000])
@pytest.mark.parametrize("command", [["walkthrough"], ["training", "--epochs", "2"]], ids=" ".join)
def test_a_disk_that_is_full(command: list[str], size: int, tmp_path: Path) -> None:
    """No file may become larger than that: the system refuses to write on."""
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    program += "; import runpy; runpy.run_module('comparisons', run_name='__main__')"
    done = run(["-W", "ignore", "-c", program, *command], tmp_path, stdout=subprocess.PIPE)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 2 and said.startswith("error: ") and "File too large" in said
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_standard_output_that_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(["-m", "comparisons", "walkthrough"], tmp_path, stdout=full)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 2 and "No space left on device" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_and_is_kept(number: signal.Signals) -> None:
    """Kept, so that who swallows it does not hide it; before and after, all is as it was."""
    before = signal.getsignal(number)
    with by_signals() as raised:
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), number)
            time.sleep(1)
        assert raised == [caught.value] and caught.value.code == 128 + number
    assert not issubclass(Stopped, KeyboardInterrupt | Exception)  # what libraries catch
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with by_signals() as raised:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN and not raised
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_swallowed_is_said_by_the_exit_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallowing(args: object) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except BaseException:
            pass
        return 0

    monkeypatch.setattr(gradients, "run", swallowing)
    assert main(["gradients"]) == 128 + number
