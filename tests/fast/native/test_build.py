"""How the library is built, found and reported, and what happens where it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import manualbp
from manualbp import fast
from manualbp.__main__ import main
from manualbp.fast.native import compiling, loading, target
from manualbp.fast.native.target import here

pytestmark = pytest.mark.skipif(bool(here().too_old), reason=here().too_old)
ROOT = Path(__file__).parents[3]
# Stands for a compiler: writes what it is asked for.
FAKE = """#!{python}
import sys
from pathlib import Path
{body}
Path(sys.argv[sys.argv.index("-o") + 1]).write_text("made")
"""
FAILS = 'print("a.cpp:1:1: error: expected a semicolon", file=sys.stderr); sys.exit(1)'
SLEEPS = 'Path("{0}/started").touch()\nimport time; time.sleep(60)'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries are looked for: an empty folder."""
    monkeypatch.setenv("MANUALBP_NATIVE_DIR", str(tmp_path / "libraries"))
    monkeypatch.delenv("MANUALBP_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    for function in (loading.library, loading._outcome, loading.warn_if_missing):
        monkeypatch.setattr(loading, function.__name__, loading.lru_cache(function.__wrapped__))
    return tmp_path / "libraries"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a fake compiler into CXX; what it makes counts as a library that loads."""

    def put(body: str = "", loads: bool = True) -> Path:
        path = tmp_path / "fake-c++"
        path.write_text(FAKE.format(python=sys.executable, body=body))
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        if loads:
            monkeypatch.setattr(loading, "load", lambda path: path.read_text())
        return path

    return put


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() or p.name.startswith("."))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, "".join(capsys.readouterr())


def test_build_find_and_status(
    fake: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = fake()
    path = folder / f"torch-{here().torch}" / f"{here().stem}.so"
    code, text = printed(capsys, "build")
    count, words = len(list(target.SOURCES.rglob("*.cpp"))), here().words
    assert (code, text) == (
        0,
        f"compiling {count} files with {compiler} for {words}, about a minute\nbuilt: {path}\n",
    )
    assert files(folder) == sorted([path.name, path.with_suffix(".json").name])
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["target"] == here()._asdict() and record["compiler"][0] == str(compiler)
    assert printed(capsys, "status") == (0, f"native step: runs, for {words}: {path}\n")
    assert printed(capsys, "build") == (0, f"built already: {path}\n")


def test_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    said = f"does not run: not built for {here().words}; run: python -m manualbp build\n"
    assert printed(capsys, "status") == (1, f"native step: {said}")
    assert loading.library() is None


def test_switched_off(
    fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    assert main(["build"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("MANUALBP_NATIVE", "0")
    code, text = printed(capsys, "status")
    assert code == 1 and "does not run: MANUALBP_NATIVE=0 switches it off; unset it" in text
    loading.warn_if_missing()  # they know
    assert loading.library() is None


@pytest.mark.parametrize(
    "other", [{"torch": "2.12.0"}, {"instructions": "AVX2"}, {"python": "cp312"}], ids=str
)
def test_side_by_side(
    other: dict[str, str],
    fake: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A library for something else is not found, but named; both can be there."""
    fake()
    own, elsewhere = here(), here()._replace(**other)
    for module in (loading, compiling):
        monkeypatch.setattr(module, "here", lambda: elsewhere)
    theirs = compiling.build()
    for module in (loading, compiling):
        monkeypatch.setattr(module, "here", lambda: own)
    code, text = printed(capsys, "status")
    assert code == 1 and f"not built for {own.words} (built: {elsewhere.words}); run:" in text
    ours = compiling.build()
    assert ours != theirs and theirs.is_file() and loading.find(own) == ours
    assert loading.find(elsewhere) == theirs


def test_other_sources(
    fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another line in csrc is another library; the package's own folder keeps the newest."""
    fake()
    monkeypatch.delenv("MANUALBP_NATIVE_DIR")
    monkeypatch.setattr(loading, "OWN", tmp_path / "own")
    monkeypatch.setattr(loading, "__file__", str(tmp_path / "x"))
    first, before = compiling.build(), here()
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").write_text("// other")
    monkeypatch.setattr(target, "SOURCES", tmp_path / "csrc")
    after = before._replace(sources=target._hash())
    assert after != before
    for module in (loading, compiling):
        monkeypatch.setattr(module, "here", lambda: after)
    assert "built: older or other sources" in loading.status()[1]
    second = compiling.build()
    assert second.is_file() and not first.exists()


@pytest.mark.parametrize(("name", "flag"), target.INSTRUCTIONS.items(), ids=str)
def test_instructions(name: str, flag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.torch.backends.cpu, "get_cpu_capability", lambda: name)
    assert set(flag) <= set(target.compile_flags())
    assert f"-DCPU_CAPABILITY={name}" in target.compile_flags()
    hashes = {target._hash()}
    monkeypatch.setattr(target.torch.backends.cpu, "get_cpu_capability", lambda: "Z VECTOR")
    assert target.instructions() == "DEFAULT"
    assert (target._hash() in hashes) == (name == "DEFAULT")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, text = printed(capsys, "build")
    assert code == 1 and text.count("\n") == 1
    assert text.startswith("not built, so pure Python runs: no C++ compiler: looked for c++, g++")
    monkeypatch.setenv("CXX", "my-c++ -O1")
    assert "looked for my-c++; install one" in printed(capsys, "build")[1]


def test_no_headers(
    fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": "/no/python3.11"})
    code, text = printed(capsys, "build")
    assert code == 1 and "no header /no/python3.11/Python.h: " in text
    assert text.endswith("apt install python3.11-dev\n")


def test_compile_error(
    fake: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = fake(FAILS)
    code, text = printed(capsys, "build")
    assert code == 1 and text.count("\n") == 2 and files(folder) == []
    said = "a.cpp:1:1: error: expected a semicolon"
    assert f"pure Python runs: {compiler} fails: {said}; --verbose" in text
    text = printed(capsys, "build", "--verbose")[1]
    assert f"\n{compiler} -std=c++20 " in text and text.endswith(f"\n{said}\n")


def test_compiler_that_does_not_start(
    fake: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fake().write_text("no program")
    code, text = printed(capsys, "build")
    assert code == 1 and "does not start: Exec format error" in text


def test_what_does_not_load(
    fake: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not kept where it was just built, and named where it was there before."""
    fake(loads=False)
    code, text = printed(capsys, "build")
    assert code == 1 and "what was built does not load: " in text and files(folder) == []
    path = folder / here().folder / f"{here().stem}.so"
    path.write_text("damaged")
    path.with_suffix(".json").write_text('{"bytes": 8}')
    assert loading.library() is None
    assert f"{path} does not load: damaged, with 7 bytes instead of 8; run:" in loading.status()[1]
    loading._outcome.cache_clear()
    path.with_suffix(".json").write_text('{"bytes": 7}')
    assert f"{path} does not load: " in loading.status()[1]
    assert loading.status()[1].endswith("; run: python -m manualbp build")
    loading._outcome.cache_clear()
    fake()  # and it is built anew
    path.unlink()
    assert main(["build"]) == 0


def test_nowhere_to_write(
    fake: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file stands for a folder that cannot be written: root can write to any other."""
    fake()
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(loading, "OWN", blocked / "built")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MANUALBP_NATIVE_DIR")
    assert compiling.build().is_relative_to(tmp_path / "cache" / "manualbp")
    assert loading.library() == "made"
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    loading._outcome.cache_clear()
    code, text = printed(capsys, "build")
    assert code == 1 and text.count("\n") == 2
    assert f"no folder that can be written: {blocked}/built, {blocked}/manualbp; name one" in text


def test_killed_build(fake: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    """No library and no lock are left, and the next build removes what was."""
    fake(SLEEPS.format(tmp_path))
    killed = subprocess.Popen(
        [sys.executable, "-m", "manualbp", "build"], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "started").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (work,) = folder.rglob(".build-*")
    assert [p for p in folder.rglob("*") if p.is_file() and work not in p.parents] == []
    assert loading.library() is None
    fake()
    path = compiling.build()
    assert files(folder) == sorted([path.name, path.with_suffix(".json").name])


def test_parallel_builds(fake: Callable[..., Path], folder: Path) -> None:
    """Neither waits, both end well, and one library is there."""
    fake("import time; time.sleep(1)", loads=False)
    code = (
        "from manualbp.fast.native import compiling, loading\n"
        "loading.load = lambda path: path.read_text()\n"
        "print(compiling.build())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(paths) == 1
    assert files(folder) == sorted([Path(paths.pop()).name, f"{here().stem}.json"])


def test_one_warning_in_fast_mode() -> None:
    with pytest.warns(loading.NativeStepWarning, match="run: python -m manualbp build") as seen:
        loading.warn_if_missing()
        loading.warn_if_missing()
    assert len(seen) == 1


def test_who_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only fast mode asks for it."""
    monkeypatch.setattr(fast.native, "warn_if_missing", loading.warn_if_missing)
    model, x = manualbp.MLP((4, 8, 3)), torch.ones(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
    with manualbp.set_mode("fast"), pytest.warns(loading.NativeStepWarning) as seen:
        model(x), model(x)
    assert len(seen) == 1


@pytest.mark.parametrize("arguments", [[], ["make"], ["status", "--loud"], ["build", "it"]])
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    text = capsys.readouterr().err
    assert raised.value.code == 2 and text.count("\n") == 1
    assert text.endswith("(see python -m manualbp --help)\n")
