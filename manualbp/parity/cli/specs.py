"""Specs: ``package.module:name`` and ``path/to/file.py:name``, objects by their place in code."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from manualbp.parity.cli.options import UsageError, one_line

FORMS = "package.module:name or path/to/file.py:name"
# Files in which nobody looks for an error: this package's, PyTorch's and the import machinery's.
OWN = Path(__file__).parents[1]
FOREIGN = (str(OWN), str(Path(torch.__file__).parent), "<frozen ")

T = TypeVar("T")


@contextmanager
def importable_here() -> Iterator[None]:
    """Modules in the current folder can be imported; afterwards ``sys.path`` is as it was."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def load(spec: str) -> Any:
    """What a spec names. A file's folder becomes importable, as when the file is run.

    Raises:
        UsageError: there is no such file, module or name, or importing it raised something.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"expected {FORMS}, got {spec!r}")
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise UsageError(f"expected a name in {place}, got {part!r}{_hint(part, known)}")
        found = getattr(found, part)
    return found


def load_arm(spec: str, seed: int = 0) -> Any:
    """An arm or a loss: what the spec names, or what that makes.

    A class of modules and a function that takes no argument are called, with the random state at
    ``seed``. A module, another function and a subclass of ``torch.autograd.Function`` are returned
    as they are.

    Raises:
        UsageError: as ``load``, or the call raised something.
    """
    found = load(spec)
    module = isinstance(found, type) and issubclass(found, nn.Module)
    if module or (inspect.isfunction(found) and not _takes_argument(found)):
        return _called(spec, found, seed)
    return found


def load_value(spec: str, seed: int, *, by_seed: bool = False) -> Any:
    """Inputs, a target or data: what the spec names, or what that function makes.

    It is called without an argument or, where it takes one, with ``seed``, and with the random
    state at ``seed``. With ``by_seed`` a function of the seed is returned as it is.

    Raises:
        UsageError: as ``load``, or the call raised something.
    """
    found = load(spec)
    if not callable(found) or isinstance(found, Tensor):
        return found
    if not _takes_argument(found):
        return _called(spec, found, seed)
    return found if by_seed else _called(spec, lambda: found(seed), seed)


def explain(error: BaseException) -> str:
    """``ValueError: its text (file:line)``, the line outside of this package and PyTorch."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [(f.filename, f.lineno) for f in frames if not f.filename.startswith(FOREIGN)]
    if isinstance(error, SyntaxError) and error.filename:
        where = [(error.filename, error.lineno)]
    text = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    return f"{text} ({os.path.relpath(where[-1][0])}:{where[-1][1]})" if where else text


def is_refusal(error: Exception) -> bool:
    """Whether this package raised it, about something that was asked of it."""
    frames = traceback.extract_tb(error.__traceback__)
    kinds = (ValueError, TypeError, OSError, ImportError)
    return isinstance(error, kinds) and OWN in Path(frames[-1].filename).parents


def _module(place: str) -> ModuleType:
    """The module of that name or in that file."""
    name, path = place, Path(place)
    if path.suffix == ".py":
        if not path.is_file():
            there = [p.name for p in path.parent.glob("*.py")]
            raise UsageError(f"expected a file, found no {place}{_hint(path.name, there)}")
        name, folder = path.stem, str(path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
            importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (name == missing or name.startswith(f"{missing}.")):
            raise UsageError(f"found no module {missing}{_hint(*_beside(missing))}") from error
        raise UsageError(f"expected {place} to be importable, got {explain(error)}") from error
    if path.suffix == ".py" and Path(module.__file__ or "").resolve() != path.resolve():
        raise UsageError(
            f"expected a file name of its own, got {place} with {module.__file__ or 'a built-in'} "
            "imported under that name; rename it"
        )
    return module


def _beside(module: str) -> tuple[str, list[str]]:
    """The last part of a module's name, and what can be imported where it should be."""
    package, _, name = module.rpartition(".")
    paths = getattr(sys.modules.get(package), "__path__", ()) if package else [os.getcwd()]
    return name, [found.name for found in pkgutil.iter_modules(paths)]


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    more = ", ..." if len(names) > 10 else ""
    return f"; there are {', '.join(names[:10])}{more}" if names else ""


def _takes_argument(function: Callable[..., Any]) -> bool:
    try:
        return bool(inspect.signature(function).parameters)
    except ValueError:  # some built-in functions do not say
        return True


def _called(spec: str, make: Callable[[], T], seed: int) -> T:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()
    except Exception as error:
        raise UsageError(
            f"expected {spec} to be made by a call, got {explain(error)}; name a finished object "
            "or a function that makes one"
        ) from error
