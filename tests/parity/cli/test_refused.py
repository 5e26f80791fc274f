"""Everything that the command line refuses: one line that says expected, got, remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from manualbp.parity.cli import main


def run(line: str) -> int:
    return main(line.split())


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused call prints; nothing is written."""
    before = sorted(Path.cwd().glob("*"))
    code, printed = run(line), capsys.readouterr()
    assert code == 2 and printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert [p for p in sorted(Path.cwd().glob("*")) if p.suffix != ".pyc"] == before
    return line


TRAINING = "pair:{} pair:Reference --data pair:{} --loss mse --steps 5 --optimizers sgd"
GOOD = "pair:Right pair:Reference --inputs pair:inputs"
USAGE = [
    ("", "CANDIDATE, REFERENCE"),
    ("pair:Right pair:Reference", "--inputs --data is required"),
    ("Right pair:Reference --inputs pair:inputs", "expected package.module:name or path/to/file"),
    ("pair:Rihgt pair:Reference --inputs pair:inputs", "got 'Rihgt'; did you mean Right?"),
    ("pair:Holder.instnace pair:Reference --inputs pair:inputs", "did you mean instance?"),
    ("piar:Right pair:Reference --inputs pair:inputs", "no module piar; did you mean pair?"),
    ("pair.sub:Right pair:Reference --inputs pair:inputs", "no module pair.sub"),
    ("piar.py:Right pair:Reference --inputs pair:inputs", "no piar.py; did you mean pair.py?"),
    ("divides:f pair:Reference --inputs pair:inputs", "ZeroDivisionError: division by zero "
     "(divides.py:3)"),
    ("unfinished:f pair:Reference --inputs pair:inputs", "(unfinished.py:1)"),
    ("leaves:f pair:Reference --inputs pair:inputs", "SystemExit: 3 (leaves.py:2)"),
    ("needs:f pair:Reference --inputs pair:inputs", "No module named 'no_such_package' "
     "(needs.py:1)"),
    ("pair:Sized pair:Reference --inputs pair:inputs", "TypeError: Linear.__init__() missing"),
    ("pair:fixed pair:Reference --inputs pair:inputs", "expected a module, a function"),
    ("pair:Renamed pair:Reference --inputs pair:inputs", "expected w (3, 4) in the reference"),
    (f"{GOOD} --parameters weight", "expected candidate's=reference's"),
    (f"{GOOD} --parameters weihgt=weight", "weihgt"),
    ("pair:Right pair:Reference --inputs pair:impossible", "RuntimeError: no such file (pair.py:"),
    (f"{GOOD} --loss msee", "did you mean mse?"),
    (f"{GOOD} --target pair:target", "expected --loss with --target"),
    (f"{GOOD} --seeds 0,0", "expected each once"),
    (f"{GOOD} --seeds -1", "at least 0"),
    (f"{GOOD} --also secnd_order", "did you mean second_order?"),
    (f"{GOOD} --dtype float23", "did you mean float32?"),
    (f"{GOOD} --device gpu", "expected cpu, cuda or cuda:N"),
    (f"{GOOD} --jsno a.json", "did you mean --json?"),
    (f"{GOOD} --json nowhere/a.json", "stands in no folder that is there"),
    (f"{GOOD} --junit .", "which is a folder"),
    (f"{GOOD} --json a --junit ./a", "expected files that differ"),
    (f"{GOOD} --log-dir /dev/null/runs", "a folder that can be written"),
    (f"{GOOD} --log-dir= ", "expected a folder, got ''; name one, or leave --log-dir out"),
    (f"{GOOD} --json= ", "got '', which names nothing"),
    (f"{GOOD} --repro .", "which is a folder"),
    ("pair:Right pair:Reference --inputs=", "expected package.module:name"),
    ("pair:Right pair:Reference --inputs pair:leaves", "Exited: SystemExit('no data') (pair.py:"),
    ("pair:Right pair:Leaves --inputs pair:inputs", "Exited: SystemExit(3) (pair.py:"),
    (f"{GOOD} --checkpoint-every 3", "expected --checkpoint-every with --data"),
    (TRAINING.format("Right", "batches") + " --checkpoint-every 3", "expected --checkpoint with"),
    (TRAINING.format("Right", "batches") + " --checkpoint . ", "which is a folder"),
    (f"{GOOD} --run-name mine", "expected --log-dir with --run-name"),
    (f"{GOOD} --steps 3", "expected --steps with --data, got it with --inputs"),
    (f"{GOOD} --data pair:batches", "not allowed with"),
    ("pair:Right pair:Reference --data pair:batches", "expected --loss with --data"),
    ("pair:Right pair:Reference --data pair:batches --loss mse --repro a", "expected --repro with"),
    ("pair:Affine pair:affine --data pair:batches --loss mse", "expected modules with --data"),
    (TRAINING.format("Right", "fixed"), "expected a pair (inputs, target)"),
    (TRAINING.format("Right", "batches") + "a", "did you mean 'sgd'?"),
    ("replay nowhere.repro", "nowhere.repro"),
    ("replay pair.py", "expected a repro file"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), USAGE, ids=[line for line, _ in USAGE])
def test_refused(line: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(line, capsys)


def test_a_taken_run_name_is_refused_before_the_comparison(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    line = refused(f"nowhere:x nowhere:y --inputs z:z --log-dir {tmp_path} --run-name mine", capsys)
    assert "expected a new run name, got 'mine'" in line and not list((tmp_path / "mine").iterdir())


def test_a_file_name_that_is_another_modules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch.py").write_text("f = abs\n")
    line = refused(f"{tmp_path}/torch.py:f torch:abs --inputs torch:pi", capsys)
    assert "rename it" in line and str(tmp_path) not in sys.path


@pytest.mark.parametrize("missing", ["rich", "tensorboard", "matplotlib"])
def test_a_missing_extra_is_named(
    missing: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    line = refused(f"{GOOD} --log-dir {tmp_path}", capsys)
    assert missing in line and 'in the clone: pip install -e ".[parity]"' in line
