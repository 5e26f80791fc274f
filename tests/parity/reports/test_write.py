"""Reports as files: all or nothing."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from manualbp.parity.reports.page import markdown_report
from manualbp.parity.reports.write import write_json, write_junit, write_markdown, write_text
from manualbp.parity.repro import save_repro
from tests.parity.samples import sample_gradient_report


def test_markdown_is_the_reports(tmp_path: Path) -> None:
    report = sample_gradient_report()
    write_markdown(report, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown_report(report)


@pytest.mark.parametrize("write", [write_json, write_junit, write_markdown])
def test_what_is_no_report_is_refused_and_nothing_is_written(write: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a GradientReport or a TrainingReport, got dict"):
        write({}, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_bad_path_is_named(tmp_path: Path) -> None:
    report = sample_gradient_report()
    with pytest.raises(FileNotFoundError, match=r"cannot write .*absent/report.json.*exists"):
        write_json(report, tmp_path / "absent" / "report.json")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}"):
        write_json(report, tmp_path)
    assert not list(tmp_path.iterdir())
    assert [p for p in tmp_path.parent.iterdir() if p.name.startswith(f".{tmp_path.name}.")] == []


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the refusal is the system's by hand; a file is no folder."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write .*file/report.json: Not a directory"):
        write_json(sample_gradient_report(), tmp_path / "file" / "report.json")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refused)
    with pytest.raises(PermissionError, match=r"cannot write .*: Permission denied; nothing was"):
        write_json(sample_gradient_report(), tmp_path / "report.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["/", "", "."])
def test_a_folder_is_no_file(path: str) -> None:
    with pytest.raises(OSError, match=r"cannot write .*give a file in a folder"):
        write_text(path, "text")


def test_links_and_pipes_stay(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "new")
    assert os.read(reader, 9) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    with pytest.raises(OSError, match=r"cannot write .*one: Too many levels of symbolic links"):
        write_text(tmp_path / "one", "new")
    assert (tmp_path / "one").is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_names_the_file() -> None:
    """Of every kind of file that is written."""
    for write in (
        lambda: write_json(sample_gradient_report(), "/dev/full"),
        lambda: save_repro("/dev/full", torch.tanh, torch.tanh, torch.ones(2), {}),
    ):
        with pytest.raises(OSError, match="cannot write /dev/full: No space left on device"):
            write()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interruption_leaves_the_old_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")

    def stopped(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(type(error)):
        write_json(sample_gradient_report(), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
