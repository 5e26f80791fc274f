"""The command line: bad usage is one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

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
    ("--dataset nowhere.npz", "found no nowhere.npz"),
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


@pytest.mark.parametrize(("option", "message"), TRAINING, ids=[o for o, _ in TRAINING])
def test_bad_usage(
    option: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, ["training", *option.split()])
    assert not list(tmp_path.iterdir())


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
    assert "install it with: pip install" in line and missing.removeprefix("sk") in line
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(gradients, "run", interrupted)
    assert main(["gradients"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
