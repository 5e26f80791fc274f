"""The library as a compiler makes it, for each set of instructions, and in a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from manualbp.fast.native import compiling

ROOT = Path(__file__).parents[3]
SOURCE = ("manualbp", "pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE")
STEP = """
import torch, manualbp
from manualbp import fast
w = torch.nn.Parameter(torch.ones(3))
w.grad = torch.ones(3)
manualbp.GradientDescent([w], 0.25).step()
print(fast.native.library() is not None, w.tolist())
"""


@pytest.fixture(autouse=True)
def there_is_a_compiler() -> None:
    try:
        compiling.plan()
    except compiling.BuildError as error:
        pytest.skip(str(error))


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    """What Python prints, which ends well."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "MANUALBP_NATIVE": "", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["", "avx2", "default"])
def test_instructions(capability: str, tmp_path: Path) -> None:
    """Of this processor and of older ones; one built for others is not taken."""
    setting = {"MANUALBP_NATIVE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
    if not capability:
        del setting["ATEN_CPU_CAPABILITY"]
    assert "built: " in run("-m", "manualbp", "build", cwd=ROOT, **setting)
    assert "runs, for torch" in run("-m", "manualbp", "status", cwd=ROOT, **setting)
    assert run("-c", STEP, cwd=ROOT, **setting) == "True [0.75, 0.75, 0.75]\n"
    names = {path.name for path in tmp_path.rglob("*.so")}
    assert len(names) == 1 and capability in names.pop()


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["", "/nowhere/c++"], ids=["compiler", "no compiler"])
def test_wheel(compiler: str, tmp_path: Path) -> None:
    """With a compiler for this platform and with the library; without one pure Python."""
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    source.mkdir()
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    shutil.rmtree(source / "manualbp" / "fast" / "native" / "built", ignore_errors=True)
    pip = "-m", "pip", "--disable-pip-version-check"
    run(*pip, "wheel", ".", "--no-build-isolation", "--no-deps", "-w", str(wheels),
        cwd=source, CXX=compiler)  # fmt: skip
    (wheel,) = wheels.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl") == bool(compiler)
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    there = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    printed = run("-c", STEP, cwd=tmp_path, **there)
    assert printed == f"{not compiler} [0.75, 0.75, 0.75]\n"
    assert (site / "manualbp" / "fast" / "native" / "csrc" / "bindings.cpp").is_file()
    (info,) = site.glob("manualbp-*.dist-info")
    said = metadata.PathDistribution(info).metadata
    assert set(said.get_all("Provides-Extra")) == {"parity", "triton"}  # what serves the package
    assert set(info.joinpath("top_level.txt").read_text().split()) == {"manualbp"}
    page = said.get_payload()  # on an index nothing of the clone is near
    assert page.startswith("# manualbp\n")
    assert not re.search(r"\]\((?!https:)|`make |comparisons", page)
    if compiler:  # the sources are in it, so that it can be built later
        assert str(site) in run("-m", "manualbp", "build", cwd=tmp_path, **there)
        assert run("-c", STEP, cwd=tmp_path, **there) == "True [0.75, 0.75, 0.75]\n"
