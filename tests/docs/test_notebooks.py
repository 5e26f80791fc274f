"""The notebooks run, and what they assert holds; they are kept without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def faults(notebook: dict[str, Any]) -> list[str]:
    """What is not as it should be in a notebook that is kept."""
    cells, found = notebook["cells"], []
    ids = [cell["id"] for cell in cells]
    if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
        found.append("format")
    if notebook["metadata"]["kernelspec"]["name"] != "python3":
        found.append("kernel")
    if len(set(ids)) < len(ids):
        found.append("ids")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    if any(cell["outputs"] or cell["execution_count"] is not None for cell in code):
        found.append("outputs")
    if not any("assert " in line for cell in code for line in cell["source"]):
        found.append("asserts nothing")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert faults(notebook) == []
    assert 12 <= len(notebook["cells"]) <= 25


def test_faults_are_found() -> None:
    cell = {"id": "a", "cell_type": "code", "outputs": [1], "execution_count": None, "source": []}
    wrong = {"nbformat": 4, "nbformat_minor": 4, "cells": [cell, cell],
             "metadata": {"kernelspec": {"name": "conda"}}}  # fmt: skip
    assert faults(wrong) == ["format", "kernel", "ids", "outputs", "asserts nothing"]


def test_index_links_each() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["article", "physics", "wrong_layernorm"]
    page = (FOLDER / "index.md").read_text()
    assert sorted(re.findall(r"\((\w+)\.ipynb\)", page)) == names
    toctree = page.partition("```{toctree}\n:hidden:\n\n")[2].partition("```")[0]
    assert sorted(toctree.split()) == names


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, with this clone's package; an assertion that fails raises here."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # its client warns of the older folders
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert list(tmp_path.iterdir()) == []  # nothing is left where it ran
    said = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert [o["text"] for o in said if o.get("name") == "stderr"] == []
