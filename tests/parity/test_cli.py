"""``python -m manualbp.parity`` on modules in a folder: verdicts, files, and everything refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import manualbp
from manualbp.parity.cli import main
from manualbp.parity.record import GradientReport
from manualbp.parity.reports import json_format, write
from manualbp.parity.training_record import TrainingReport
from tests.parity.samples import AFFINE

PAIR = '''


class Reference(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)


class Right(Reference):
    def forward(self, x):
        return Affine.apply(x, self.weight, self.bias)


class Wrong(Reference):
    def forward(self, x):
        return Mean.apply(x, self.weight, self.bias)


class Reversed(Reference):
    def forward(self, x):
        return x.flip(-1) @ self.weight.flip(-1).T + self.bias


class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return Affine.apply(x, self.w, self.b)


class Sized(nn.Linear):
    pass


class Holder:
    instance = Right()


def sized():
    return Sized(4, 3)


def affine(x, w, b):
    return x @ w.T + b


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed):
    return draw(seed, 8, 4)


def arguments(seed):
    return draw(seed, 8, 4), draw(seed + 1, 3, 4), draw(seed + 2, 3)


def unseeded():
    return [torch.randn(8, 4)]


def no_inputs(seed):
    return torch.zeros(8, 4)


def impossible(seed):
    raise RuntimeError("no such file")


def interrupted(seed):
    raise KeyboardInterrupt


def loss(output, target):
    return (output - target).pow(2).mean()


def target(seed):
    return draw(seed, 8, 3)


fixed = draw(7, 8, 3)
batches = [(draw(k, 8, 4), draw(k + 9, 8, 3)) for k in range(4)]


class Stopping:
    """Ctrl-C before the third batch, once."""

    stopped = False

    def __iter__(self):
        for number, batch in enumerate(batches):
            if number == 2 and not Stopping.stopped:
                Stopping.stopped = True
                raise KeyboardInterrupt
            yield batch


stopping = Stopping()
'''
BROKEN = {
    "divides": "import os\n\nx = 1 / 0\n",
    "unfinished": "def f(:\n",
    "leaves": "import sys\nsys.exit(3)\n",
    "needs": "import no_such_package\n",
}

Run = Callable[..., int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where pair.py is; what was imported from there is forgotten afterwards."""
    path = tmp_path_factory.mktemp("user")
    for name, source in {"pair": AFFINE + PAIR, **BROKEN}.items():
        (path / f"{name}.py").write_text(source)
    yield path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(path)):
            del sys.modules[name]


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


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


def test_training_is_interrupted_and_goes_on(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json, checkpoint = tmp_path / "t.json", tmp_path / "t.checkpoint"
    line = TRAINING.format("Right", "stopping") + f" --json {json} --checkpoint {checkpoint}"
    assert run(line) == 130
    printed = capsys.readouterr()
    assert printed.err == f"interrupted; the same command goes on from {checkpoint}\n"
    assert "2 of 5" in printed.out
    report = json_format.from_json(json.read_text())
    assert isinstance(report, TrainingReport) and report.interrupted
    assert run(line) == 0


def test_ctrl_c_is_no_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pair:Right pair:Reference --inputs pair:interrupted") == 130
    assert capsys.readouterr().err == "interrupted\n"


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
    assert missing in line and 'pip install "manualbp[parity]"' in line


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
