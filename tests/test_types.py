"""What type checkers say of programs that use the package, installed as with `pip install -e`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import manualbp
from torch import nn

class Net(nn.Module): ...

reveal_type(manualbp.convert(Net()))
reveal_type(manualbp.convert(nn.Sequential()))
manualbp.MLP((1, 2), "gelu", output_activation="tanh")
manualbp.MLP((1, 2), "rleu")
manualbp.GatedMLP(1, 2, "silo")
manualbp.set_mode("fast", Net())
manualbp.set_mode("fats")
manualbp.set_memory("low")
manualbp.set_memory("lower")
"""
SAID = {7: '"program.Net"', 8: '"torch.nn.modules.container.Sequential"', 10: "Literal['rleu']",
        11: "Literal['silo']", 13: "Literal['fats']", 15: "Literal['lower']"}  # fmt: skip


@pytest.mark.slow
def test_editable_install_is_seen_by_mypy(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    source, environment = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "manualbp", source / "manualbp")
    python = [str(environment / "bin" / "python"), "-m"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib"))  # torch, pip, mypy
    install = ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", str(source)]
    subprocess.run(python + install, check=True, cwd=tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = ["mypy", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(python + mypy, capture_output=True, text=True, cwd=tmp_path)
    lines = {int(line.split(":")[1]): line for line in done.stdout.splitlines()[:-1]}
    assert set(lines) == set(SAID), done.stdout
    assert [line for number, line in lines.items() if SAID[number] not in line] == []
