"""One run for all tests of its tables, curves, pictures and page."""

from __future__ import annotations

from pathlib import Path

import pytest

from comparisons.cli import main


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(["walkthrough", "--log-dir", str(folder), "--run-name", "w"]) == 0
    return folder / "w"
