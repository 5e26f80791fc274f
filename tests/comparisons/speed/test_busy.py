"""The processes beside a step: they are there while it is timed, and gone after it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comparisons.__main__ import main
from comparisons.speed import busy, command, floor, workloads
from comparisons.speed.arms.arm import AUTOGRAD, FUSED
from comparisons.speed.record import JSON
from comparisons.speed.timing import Budget
from comparisons.speed.workloads import TRAINING, Workload


def test_they_run_inside_and_are_gone_after() -> None:
    with busy.beside(2) as found:
        assert [process.poll() for process in found] == [None, None]
    assert all(process.returncode for process in found)


def test_they_are_gone_after_an_error_too() -> None:
    found: list[subprocess.Popen[str]] = []
    with pytest.raises(KeyboardInterrupt), busy.beside(1) as running:
        found += running
        raise KeyboardInterrupt
    assert found[0].returncode


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look into")
def test_they_end_with_the_process_that_started_them() -> None:
    """Killed, so that it ends none itself."""
    program = (
        "import os, signal\nfrom comparisons.speed import busy\n"
        "with busy.beside(1) as found:\n"
        "    print(found[0].pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    stat = Path("/proc") / done.stdout.strip() / "stat"
    for _ in range(600):  # a minute at most; it asks a few times a second
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_only_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    rows = tuple(Workload(TRAINING, (2, 4, 1), 8, "relu", beside=count) for count in (0, 1))
    monkeypatch.setattr(workloads, "ON_REQUEST", {"busy": rows})
    monkeypatch.setattr(command, "QUICK", {"busy": Budget(0.001, 2, 2)})
    monkeypatch.setattr(floor, "SHAPES", ((16, 16, 16),))
    monkeypatch.setattr(floor, "COPIED", 2**20)
    assert main(["speed", "--quick", "--only", "busy", "--output", "out"]) == 0
    assert "Beside busy processes: ms of a step" in capsys.readouterr().out
    cells = json.loads((tmp_path / "out" / JSON).read_text())["cells"]
    assert [cell.get("beside") for cell in cells] == [None, 1]
    assert all(list(cell["arms"]) == [AUTOGRAD, FUSED] for cell in cells)
