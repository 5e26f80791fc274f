"""Reports written to files: each file whole, or not at all.

Every function raises TypeError for what is no report, and OSError as ``write_text`` does.
"""

from __future__ import annotations

from manualbp.parity.files import PathLike, write_text
from manualbp.parity.reports.json_format import to_json
from manualbp.parity.reports.junit import junit
from manualbp.parity.reports.page import markdown_report
from manualbp.parity.training_record import Report


def write_json(report: Report, path: PathLike) -> None:
    """``to_json`` as a file."""
    write_text(path, to_json(report))


def write_junit(report: Report, path: PathLike) -> None:
    """A test case per tensor and check, or per training, in JUnit's XML; see junit.py."""
    write_text(path, junit(report))


def write_markdown(report: Report, path: PathLike) -> None:
    """``markdown_report`` as a file."""
    write_text(path, markdown_report(report))
