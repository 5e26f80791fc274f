"""The command line: bad usage is one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from comparisons.cli import COMMANDS, main
from comparisons.gradients import command as gradients
from comparisons.output import EXTRA

TRAINING = [
    ("--widths 64", "at least two whole numbers"),
    ("--widths 64,0,10", "at least two whole numbers"),
    ("--widths 64,5", "from 64 inputs to 10 outputs for digits, got 64,5; try --widths 64,128,10"),
    ("--activation rleu", "did you mean relu"),
    ("--optimizer adma", "did you mean adam"),
    ("--dataset digit", "did you mean digits"),
    ("--dataset nowhere.npz", "found no 'nowhere.npz'"),
    ("--lr 0", "a finite number above 0"),
    ("--lr -1", "a finite number above 0"),
    ("--lr nan", "a finite number above 0"),
    ("--lr inf", "a finite number above 0"),
    ("--epochs 0", "a whole number of at least 1"),
    ("--batch-size 1.5", "a whole number of at least 1"),
    ("--dtype float23", "did you mean float32"),
    ("--device gpu", "expected cpu, cuda or cuda:N"),
    ("--device cuda:99", "--device cpu"),
    ("--seed -1", "at least 0"),
    ("--run-name a/b", "no folder separators"),
    ("--log-dir /dev/null/runs", "a folder that can be written"),
    ("--log-dir /proc/runs", "choose another --log-dir"),
    ("--widht 64,10", "unrecognized arguments"),
    ("--widths 64,1000000000000,10", "of at most ten digits"),
    ("--widths 64,9000000000,10", "--widths that fit into"),
    ("--threads 1000000", "a whole number of at most"),
    ("--epochs " + "9" * 5000, "a whole number of at most 2147483647, got '9999"),
    ("--batch-size 99999999999999999999", "a whole number of at most 2147483647"),
    ("--lr 1e300", "--lr that torch.float32 can compute with, at most 3e+36, got 1e+300"),
    ("--lr 1e5 --dtype float16", "at most 7e+02"),
    ("--device cuda:99999999999999999999", "expected cpu, cuda or cuda:N"),
    ("--log-dir " + "x" * 300, "is too long"),
    ("--log-dir a\0b", "a NUL"),
    ("--run-name " + "x" * 300, "at most 200 letters"),
    ("--run-name a\0b", "no folder separators"),
    ("--dataset " + "x" * 300 + ".npz", "expected a file of arrays x and y"),
    ("--dataset a\0.npz", "expected a file of arrays x and y"),
]
# Of the other commands.
OTHERS = [
    ("gradients --output " + "x" * 300, "is too long"),
    ("gradients --output a\0b", "a NUL"),
    ("power --out " + "x" * 300, "is too long"),
    ("speed --threads 1000000", "a whole number of at most"),
    ("speed --read " + "x" * 300, "File name too long"),
    ("speed --read a\0b", "null byte"),
    ("speed --output a\0b", "a NUL"),
    ("walkthrough --run-name " + "x" * 300, "at most 200 letters"),
    ("walkthrough --log-dir /dev/full", "choose another --log-dir"),
]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a refused call prints."""
    try:
        code = main(arguments)
    except SystemExit as exit:
        code = exit.code
    printed = capsys.readouterr()
    assert code == 2 and printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(("option", "message"), TRAINING, ids=[o[:40] for o, _ in TRAINING])
def test_bad_usage(
    option: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, ["training", *option.split()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("line", "message"), OTHERS, ids=[line[:40] for line, _ in OTHERS])
def test_bad_usage_of_others(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, line.split())
    assert message in said and len(said) < 400 and not list(tmp_path.iterdir())


def test_beside_a_file_called_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a run that would go there is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SystemExit) as exit:
        main(["training", "--help"])
    assert exit.value.code == 0 and capsys.readouterr().err == ""
    assert main(["training", "--epochs", "1", "--log-dir", "mine", "--run-name", "one"]) == 0
    capsys.readouterr()
    assert "runs is no folder" in refused(capsys, ["walkthrough"])


def test_a_run_that_cannot_be_written_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As TensorBoard's writer does on a full disk: its thread fails, and the next call says so."""

    def full(self: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    for command in (["training", "--epochs", "1"], ["walkthrough"]):
        code = main([*command, "--log-dir", str(tmp_path / "runs")])
        (said,) = capsys.readouterr().err.splitlines()
        assert code == 2 and said.startswith("error: ") and "No space left on device" in said
        assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
])  # fmt: skip
def test_no_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_memory(args: object) -> int:
        raise error

    monkeypatch.setattr(gradients, "run", without_memory)
    assert "expected what fits into memory" in refused(capsys, ["gradients"])
    error.args = ("something else",)
    if type(error) is RuntimeError:  # a fault of the program keeps its traceback
        with pytest.raises(RuntimeError, match="something else"):
            main(["gradients"])


def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "own.npz", x=np.full((9, 2), np.nan), y=np.zeros(9))
    arguments = ["--dataset", str(tmp_path / "own.npz"), "--log-dir", str(tmp_path / "runs")]
    assert "18 NaN or infinite of 18 in x" in refused(capsys, ["training", *arguments])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["training", "walkthrough", "speed"])
def test_taken_run_name(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    line = refused(capsys, [command, "--log-dir", str(tmp_path), "--run-name", "mine"])
    assert "expected a new run name, got 'mine'" in line and not list((tmp_path / "mine").iterdir())


def test_no_or_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "COMMAND" in refused(capsys, [])
    assert "invalid choice: 'trainnig'" in refused(capsys, ["trainnig"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0 and COMMANDS[command] in capsys.readouterr().out


@pytest.mark.parametrize("missing", EXTRA)
def test_missing_extra_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in list(sys.modules):
        if name.split(".")[0] == missing or name.startswith(("comparisons.", "torch.utils.tensor")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    command = "speed" if missing == "matplotlib" else "training"
    line = refused(capsys, [command, "--log-dir", str(tmp_path / "runs")])
    assert "pip install -" in line and missing.removeprefix("sk") in line
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(gradients, "run", interrupted)
    assert main(["gradients"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
