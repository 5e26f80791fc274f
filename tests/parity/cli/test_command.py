"""``python -m manualbp.parity`` on modules in a folder: verdicts and files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import manualbp
from manualbp.parity.cli import main
from manualbp.parity.record import GradientReport
from manualbp.parity.reports import json_format, write
from manualbp.parity.training_record import TrainingReport
from manualbp.parity.trajectories.checkpoint import Checkpoint
from tests.parity.cli.user_files import PAIR
from tests.parity.samples import AFFINE

Run = Callable[..., int]


def run(line: str) -> int:
    return main(line.split())


def gradients(path: Path) -> GradientReport:
    report = json_format.from_json(path.read_text())
    assert isinstance(report, GradientReport)
    return report


def test_a_right_candidate(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json, junit = tmp_path / "a.json", tmp_path / "a.xml"
    line = "pair:Right pair.py:Reference --inputs pair:inputs --loss mse --target pair:target"
    assert run(f"{line} --json {json} --junit {junit}") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("agree") and printed.err == ""
    report = gradients(json)
    assert report.agrees and report.power is not None and not report.power.missing
    assert {check.seed for check in report.checks} == {0, 1, 2}
    assert ElementTree.parse(junit).getroot().get("failures") == "0"


def test_a_wrong_candidate_and_its_replay(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json, junit, repro = tmp_path / "a.json", tmp_path / "a.xml", tmp_path / "a.repro"
    outputs = f"--json {json} --junit {junit} --log-dir {tmp_path} --run-name first"
    line = "pair:Wrong pair:Reference --inputs pair:inputs --seeds 3,5"
    assert run(f"{line} {outputs} --repro {repro}") == 1
    first = gradients(json)
    assert [tensor.name for tensor in first.differing] == ["bias.grad"]
    assert "bias.grad" in capsys.readouterr().out and first.repro == str(repro)
    failed = [case.get("name") for case in ElementTree.parse(junit).iter("testcase")
              if case.find("failure") is not None]  # fmt: skip
    assert {"bias.grad [seed 3]", "bias.grad [seed 5]"} <= set(failed)
    assert list((tmp_path / "first").rglob("events*"))

    assert run(f"replay {repro} --json {json} --log-dir {tmp_path} --run-name second") == 1
    assert gradients(json).checks == first.checks
    assert list((tmp_path / "second").rglob("events*"))
    assert "(run second)" in capsys.readouterr().out


def test_no_power_is_no_agreement(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With inputs of 0 any weight.grad looks right."""
    line = "pair:Right pair:Reference --inputs pair:no_inputs --seeds 0"
    assert run(line) == 1
    assert "NO POWER" in capsys.readouterr().out.splitlines()[-1]
    assert run(f"{line} --no-power") == 0


ARMS = [
    "pair:Holder.instance pair:Reference --inputs pair:unseeded --loss pair:loss "
    "--target pair:fixed",
    "pair:sized pair:Reference --inputs pair:inputs --also second_order,vmap,forward_mode",
    "pair:Affine pair:affine --inputs pair:arguments --dtype float64",
    "pair:Renamed pair:Reference --inputs pair:inputs --parameters w=weight,b=bias --device cpu",
    "pair:Reversed pair:Reference --inputs pair:inputs",
    "torch.nn:Tanh torch:tanh --inputs pair:inputs --dtype bfloat16",
]


@pytest.mark.parametrize("line", ARMS)
def test_arms_that_agree(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{line} --seeds 0") == 0, capsys.readouterr().out


def test_exact_asks_for_the_bits(here: Path) -> None:
    assert run("pair:Reversed pair:Reference --inputs pair:inputs --seeds 0 --exact") == 1


def test_every_call_starts_at_the_seed(here: Path, tmp_path: Path) -> None:
    """Parameters of a class and inputs without a seed are drawn alike each time."""
    json, reports = tmp_path / "a.json", []
    for seeds in ("4", "4", "5"):
        line = "pair:Wrong pair:Reference --inputs pair:unseeded --no-power"
        assert run(f"{line} --seeds {seeds} --json {json}") == 1
        reports.append(gradients(json).checks[0].tensors)
    assert reports[0] == reports[1] != reports[2]


TRAINING = "pair:{} pair:Reference --data pair:{} --loss mse --steps 5 --optimizers sgd"


def test_training(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json = tmp_path / "t.json"
    assert run(TRAINING.format("Right", "batches") + f" --json {json} --device cpu") == 0
    report = json_format.from_json(json.read_text())
    assert isinstance(report, TrainingReport) and report.agrees
    assert [(r.dtype, r.steps) for r in report.runs] == [("float32", 5), ("float64", 5)]
    assert run(TRAINING.format("Wrong", "batches") + " --dtype float64") == 1
    assert "bias.grad" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "code"), [("stopping", 130), ("terminated", 143)])
def test_training_is_interrupted_and_goes_on(
    data: str, code: int, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C and SIGTERM wait for the end of the third step, which is in the file then."""
    json, checkpoint = tmp_path / "t.json", tmp_path / "t.checkpoint"
    line = TRAINING.format("Right", data) + f" --json {json} --checkpoint {checkpoint}"
    assert run(line) == code
    printed = capsys.readouterr()
    assert printed.err == f"interrupted; the same command goes on from {checkpoint}\n"
    assert "3 of 5" in printed.out
    report = json_format.from_json(json.read_text())
    assert isinstance(report, TrainingReport) and report.interrupted
    assert run(line) == 0


def test_without_a_checkpoint_nothing_is_promised(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAINING.format("Right", "stopped")) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_checkpoint_is_written_by_time(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 100 steps none of 5 would be written."""
    written: list[int] = []
    write = Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", lambda self, report, training: (
        written.append(report.runs[-1].steps), write(self, report, training)))  # fmt: skip
    line = TRAINING.format("Right", "batches") + f" --checkpoint {tmp_path / 'c'} --dtype float64"
    assert run(f"{line} --checkpoint-every 1e-9") == 0
    assert written == [1, 2, 3, 4, 5]


def test_an_arm_that_leaves_does_not_end_the_program(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pair:Leaves pair:Reference --inputs pair:inputs --seeds 0") == 1
    assert "the candidate raised Exited: SystemExit(3)" in capsys.readouterr().out


def test_ctrl_c_is_no_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pair:Right pair:Reference --inputs pair:interrupted") == 130
    assert capsys.readouterr().err == "interrupted\n"


GOOD = "pair:Right pair:Reference --inputs pair:inputs"


def test_the_report_is_printed_where_a_file_cannot_be_written(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_json", full)
    files = f"--json {tmp_path / 'a.json'} --junit {tmp_path / 'a.xml'}"
    assert run(f"{GOOD} --seeds 0 --no-power {files}") == 2
    printed = capsys.readouterr()
    assert "agree" in printed.out and "No space left on device" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.xml"]


@pytest.mark.parametrize("command", ["", "replay "])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(f"{command}--help")
    assert left.value.code == 0 and "exit codes" in capsys.readouterr().out


def test_as_a_program(tmp_path: Path) -> None:
    """The folder it is started in can be imported; the exit code is the verdict."""
    (tmp_path / "pair.py").write_text(AFFINE + PAIR)
    line = "pair:Wrong pair:Reference --inputs pair:inputs --seeds 0 --no-power --json a.json"
    done = subprocess.run(
        [sys.executable, "-m", "manualbp.parity", *line.split()], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(manualbp.__file__).parents[1])},
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1].startswith("DIFFER")
    assert not gradients(tmp_path / "a.json").agrees
