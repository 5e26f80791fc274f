"""Builds the library: csrc in two units at the same time, then both into one.

A unit includes its files, so that PyTorch's headers, which take longest, are read once for all.

It is made in a folder of its own beside its place and moved there whole. So a build that is killed
leaves no library, builds at the same time do not meet, and nobody waits for another.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from manualbp.fast.native import loading
from manualbp.fast.native.target import SOURCES, compile_flags, here, link_flags

COMPILERS = ("c++", "g++", "clang++")
WORK = ".build"  # begins the names of folders at work: .build-HOST-PROCESS-xxxx


class BuildError(Exception):
    """There can be no library; its one-line message says why and what to do."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output  # the compiler's own words


def plan() -> str:
    """What ``build`` is going to do.

    Raises:
        BuildError: too old a PyTorch, or no compiler.
    """
    _check_torch()
    return (
        f"compiling {len(_files())} files with {' '.join(compiler())} for {here().words}, "
        "about a minute"
    )


def build(folder: Path | None = None) -> Path:
    """Where the library is, after building it.

    Args:
        folder: where to; by default the first of ``loading.folders`` that can be written.

    Raises:
        BuildError: too old a PyTorch, no compiler, no headers, no place, or it does not compile,
            link or load.
    """
    _check_torch()
    command = [*compiler(), *compile_flags(), *_headers()]
    place = _writable([folder] if folder else loading.folders())
    target = place / f"{here().stem}.so"
    try:
        with _workspace(place) as work:
            made = work / target.name
            units = _units(work)
            objects = [str(unit.with_suffix(".o")) for unit in units]
            _run_all(
                [[*command, "-c", str(u), "-o", str(u.with_suffix(".o"))] for u in units], work
            )
            libraries = f"-L{_torch() / 'lib'}"
            _run_all([[*compiler(), *objects, libraries, *link_flags(), "-o", str(made)]], work)
            size = made.stat().st_size
            record = {"target": here()._asdict(), "compiler": command, "bytes": size}
            made.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
            try:
                loading.load(made)
            except Exception as error:
                raise BuildError(f"what was built does not load: {error}") from error
            os.replace(made.with_suffix(".json"), target.with_suffix(".json"))
            os.replace(made, target)
    except OSError as error:
        raise BuildError(f"cannot write to {place}: {error.strerror}") from error
    if loading.OWN in target.parents:
        _remove_older(target)
    return target


def compiler() -> list[str]:
    """The command that compiles C++: CXX, or the first that is there.

    Raises:
        BuildError: there is none.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    names = chosen[:1] or list(COMPILERS)
    found = next((name for name in names if shutil.which(name)), None)
    if os.name == "nt" or found is None:
        raise BuildError(
            f"no C++ compiler: looked for {', '.join(names)}; install one (Debian and Ubuntu: "
            "apt install g++; macOS: xcode-select --install) or name it in CXX"
        )
    return chosen or [found]


def _check_torch() -> None:
    if here().too_old:
        raise BuildError(here().too_old)


def _files() -> list[Path]:
    return sorted(SOURCES.rglob("*.cpp"))


def _units(work: Path) -> list[Path]:
    """What is compiled: exact mode's files, and all others."""
    units: dict[Path, list[str]] = {work / "exact.cpp": [], work / "others.cpp": []}
    for file in _files():
        unit = work / ("exact.cpp" if file.parent.name == "exact" else "others.cpp")
        units[unit].append(f'#include "{file.relative_to(SOURCES).as_posix()}"\n')
    for unit, lines in units.items():
        unit.write_text("".join(lines))
    return [unit for unit, lines in units.items() if lines]


def _torch() -> Path:
    return Path(torch.__file__).parent


def _headers() -> list[str]:
    """The folders of PyTorch's and Python's headers, as flags."""
    include, python = _torch() / "include", Path(sysconfig.get_paths()["include"])
    for file, remedy in (
        (include / "ATen" / "core" / "Tensor.h", "take PyTorch from pip"),
        (python / "Python.h", f"Debian and Ubuntu: apt install python{python.name[6:]}-dev"),
    ):
        if not file.is_file():
            raise BuildError(f"no header {file}: {remedy}")
    paths = include, include / "torch" / "csrc" / "api" / "include", python
    return [f"-I{SOURCES}", *(flag for path in paths for flag in ("-isystem", str(path)))]


def _writable(choices: Sequence[Path]) -> Path:
    """The first of the folders that can be written, with PyTorch's version below it."""
    for folder in choices:
        place = folder / here().folder
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
    tried = ", ".join(map(str, choices))
    raise BuildError(f"no folder that can be written: {tried}; name one in MANUALBP_NATIVE_DIR")


@contextlib.contextmanager
def _workspace(place: Path) -> Iterator[Path]:
    """A folder of this process's own; those of processes that were killed are removed."""
    prefix = f"{WORK}-{platform.node()}-"
    for path in place.glob(f"{prefix}*"):
        process = path.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=place) as work:
        yield Path(work)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _run_all(commands: Sequence[Sequence[str]], work: Path) -> None:
    """All at the same time, as many as there are cores; the first error ends it."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(lambda command: _run(command, work), commands):
                pass
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(command: Sequence[str], work: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(work), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]} does not start: {error.strerror}") from error
    if done.returncode != 0:
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        line = next((text for text in lines if re.search("error|undefined", text)), lines[0])
        said = f"{command[0]} fails: {line.strip()}; --verbose shows all of it"
        raise BuildError(said, f"{shlex.join(command)}\n{done.stderr}")


def _remove_older(target: Path) -> None:
    """Libraries of earlier sources. Not in a folder that other versions of this package share."""
    same = target.stem.rpartition("-")[0]
    for path in target.parent.glob(f"{same}-*"):
        if path.stem != target.stem:
            path.unlink(missing_ok=True)
