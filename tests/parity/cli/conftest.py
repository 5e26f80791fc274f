"""A user's folder, in which the command line is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.cli.user_files import BROKEN, PAIR
from tests.parity.samples import AFFINE


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
