"""Finds the library by its name and loads it. Where it cannot, pure Python runs; it says why."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from manualbp.fast.native.target import Target, here

BUILD = "python -m manualbp build"
OWN = Path(__file__).parent / "built"  # beside the sources, where that can be written


class NativeStepWarning(UserWarning):
    """Fast mode was asked for, and its C++ library is not there."""


class _Outcome(NamedTuple):
    module: Any  # None where there is none
    words: str  # where it is, or why there is none and what to do


def folders() -> list[Path]:
    """Where libraries may lie: MANUALBP_NATIVE_DIR alone, or else the package's and the user's."""
    chosen = os.environ.get("MANUALBP_NATIVE_DIR")
    if chosen:
        return [Path(chosen)]
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return [OWN, (Path(cache) if cache else Path.home() / ".cache") / "manualbp"]
    except RuntimeError:  # nobody's home
        return [OWN]


def find(target: Target) -> Path | None:
    """The library for the target; None where nobody has built it."""
    paths = [folder / target.folder / f"{target.stem}.so" for folder in folders()]
    return next((path for path in paths if path.is_file()), None)


def load(path: Path) -> Any:
    """The compiled module.

    Raises:
        ImportError: it does not fit this process, or is damaged.
    """
    record, size = json.loads(path.with_suffix(".json").read_text()), path.stat().st_size
    if size != record["bytes"]:  # a file that is cut off would end the process
        raise ImportError(f"damaged, with {size} bytes instead of {record['bytes']}")
    spec = importlib.util.spec_from_file_location("manualbp_native", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loads(path: Path) -> bool:
    """Whether it does, in this process."""
    try:
        load(path)
    except Exception:  # of whatever kind
        return False
    return True


@lru_cache
def library() -> Any:
    """The compiled module; None where there is none for this PyTorch and processor."""
    return _outcome().module


def status() -> tuple[bool, str]:
    """Whether the native step runs; and for what, or else why not and what to do."""
    module, words = _outcome()
    return (True, f"runs, for {here().words}: {words}") if module else (False, words)


@lru_cache
def warn_if_missing() -> None:
    """One warning in a process, for those who asked for speed; none where they switched it off."""
    module, words = _outcome()
    if module is None and not _switched_off():
        text = f"manualbp's native step does not run, so fast mode is slower: {words}"
        warnings.warn(text, NativeStepWarning, stacklevel=2)


def _switched_off() -> bool:
    return os.environ.get("MANUALBP_NATIVE") == "0"


@lru_cache
def _outcome() -> _Outcome:
    if _switched_off():
        return _Outcome(None, "MANUALBP_NATIVE=0 switches it off; unset it to have it")
    if here().too_old:
        return _Outcome(None, here().too_old)
    path = find(here())
    if path is None:
        return _Outcome(None, f"not built for {here().words}{_others()}; run: {BUILD}")
    try:
        return _Outcome(load(path), str(path))
    except Exception as error:  # whatever it is, the rest must run without it
        reason = " ".join(str(error).split())
        return _Outcome(None, f"{path} does not load: {reason}; run: {BUILD}")


def _others() -> str:
    """What else there is, in words."""
    found = set()
    for path in (path for folder in folders() for path in folder.glob("torch-*/*.json")):
        try:
            target = Target(**json.loads(path.read_text())["target"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # nobody's file
        same = target[:3] == here()[:3]
        found.add("older or other sources" if same else target.words)
    return f" (built: {'; '.join(sorted(found))})" if found else ""
