"""What stands around the code, in several files, says the same everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import manualbp

ROOT = Path(__file__).parents[1]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_one_version() -> None:
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert manualbp.__version__ == cited == newest


def test_ci_runs_the_versions_that_are_promised() -> None:
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", PYPROJECT)
    (tested,) = re.findall(r"^ +python: (\[.*\])$", WORKFLOW, re.MULTILINE)
    assert promised == re.findall(r"[\d.]+", tested)
    assert f'requires-python = ">={promised[0]}"' in PYPROJECT
    (oldest,) = re.findall(r'"torch>=([\d.]+)"', PYPROJECT)
    assert f'{{ python: "{promised[0]}", torch: "=={oldest}.0" }}' in WORKFLOW


def test_ci_calls_targets_that_are_there() -> None:
    called = set(re.findall(r"run: make (\S+)", WORKFLOW))
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert called and called <= set(" ".join(phony).split())
    assert called <= set(
        re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    )


def test_install_commands_work_in_the_clone() -> None:
    """The package is on no index; every extra and every file that is named is there."""
    (extras,) = re.findall(r"optional-dependencies\]\n((?:\w.*\n)+)", PYPROJECT)
    named = set(re.findall(r"^\w+", extras, re.MULTILINE))
    assert {"parity", "triton"} <= named
    files = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("requirements/*.txt")]
    for folder in ("docs", "manualbp", "comparisons"):
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".md", ".py")]
    commands = [
        (path.name, command.partition(" #")[0])
        for path in files
        for command in re.findall(r"pip install ([^`\n]*)", path.read_text())
    ]
    assert len(commands) > 10
    for name, command in commands:
        assert "manualbp" not in command, (name, command)
        assert set(re.findall(r"\.\[(\w+)\]", command)) <= named, (name, command)
        for file in re.findall(r"requirements/\w+\.txt", command):
            assert (ROOT / file).is_file(), (name, command)


def test_the_description_runs() -> None:
    """It shows what it prints in the last line's comment."""
    page = (ROOT / "manualbp" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.split() == [code.split()[-1]], ran.stderr
