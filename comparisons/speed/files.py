"""What a run leaves behind: speed.json, speed.md, the figures, and TensorBoard's event files.

All of it is made first and written then, into folders that were not there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comparisons import cli, machine
from comparisons.speed import plots, results, tables
from comparisons.speed.arms import AUTOGRAD
from comparisons.speed.grid import TABLE, coordinate
from comparisons.speed.results import Result, geometric_means, present
from manualbp.parity.cli import options
from manualbp.parity.reports.markdown import markdown_table
from manualbp.parity.reports.tensorboard import RunLog

JSON, MARKDOWN = "speed.json", "speed.md"
FIGURES = "figures"


def check_new(log_dir: Path, name: str, output: Path | None) -> None:
    """Nothing is measured for a folder that is taken already."""
    options.free_run(log_dir, name)
    if output is not None and output.exists():
        raise options.UsageError(
            f"expected a new folder, got {output}, which is there; choose another --output"
        )


def read(path: Path) -> dict[str, Any]:
    """The record of an earlier run."""
    try:
        written = json.loads(path.read_text())
        results.from_record(written)
        machine.line(written["machine"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise options.UsageError(
            f"expected the {JSON} of an earlier run, got {path} ({type(error).__name__}: {error})"
        ) from None
    return dict(written)


def write(written: dict[str, Any], log_dir: Path, name: str, output: Path | None) -> RunLog:
    """Everything that follows from a record."""
    cells = results.from_record(written)
    figures = plots.figures(cells, machine.line(written["machine"]))
    pictures = {file: plots.pixels(figure) for file, figure in figures.items()}
    contents = {JSON: results.text(written).encode(), MARKDOWN: page(written).encode()}
    contents |= {file: plots.png(picture) for file, picture in pictures.items()}
    if output is not None:
        _make(output)
    with cli.new_run(log_dir, name, [FIGURES, *map(_folder, present(cells))]) as log:
        folder = output or log.path
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        log.text(FIGURES, "speed", page(written))
        for file, picture in pictures.items():
            log.image(FIGURES, file.removesuffix(".png"), picture)
        _curves(log, cells)
    return log


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise options.UsageError(
            f"expected a folder that can be made, got {folder}: {error.strerror}; "
            "choose another --output"
        ) from None


def _curves(log: RunLog, cells: Sequence[Result]) -> None:
    """The sweeps as scalars; the step is the number that was swept over."""
    for result in cells:
        if result.part in (*TABLE, "dtype"):
            continue
        swept = result.part in ("depth", "width")
        net = result.part if swept else f"{result.part}_{result.row.net}"
        step = coordinate(result.part, result.row)
        for arm in result.times:
            speed_up = result.ratio(AUTOGRAD, arm)
            values = {
                "milliseconds": 1e3 * result.median(arm),
                "speed_up": speed_up.median if speed_up else None,
                "over_floor": result.over_floor(arm),
                "peak_megabytes": result.memory[arm] / 1e6 if arm in result.memory else None,
            }
            for what, value in values.items():
                if value is not None:
                    log.scalar(_folder(arm), f"{what}/{net}", value, step)


def _folder(arm: str) -> str:
    return arm.replace(", ", "-").replace(" ", "-")


def page(written: dict[str, Any]) -> str:
    """The tables, the notes and the machine, in Markdown."""
    cells = results.from_record(written)
    parts = [f"# Speed on {machine.place(written['machine'])}"]
    for table in tables.of(cells):
        parts.append(f"**{table.title}**")
        columns = [column.replace("-\n", "-").replace("\n", " ") for column in table.columns]
        parts.append(markdown_table(columns, table.rows))
    means = geometric_means([cell for cell in cells if cell.part in TABLE])
    lines = [*means.splitlines(), *written["notes"]]
    parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    listed = [[name, str(value)] for name, value in written["machine"].items()]
    rates = written["operations_per_second"].items()
    listed += [[f"{dtype} products", f"{rate / 1e9:.1f} GFLOP/s"] for dtype, rate in rates]
    if copied := written.get("bytes_per_second"):
        listed.append(["copy, read and written", f"{copied / 1e9:.1f} GB/s"])
    parts.append(markdown_table(["machine", "value"], listed))
    return "\n\n".join(parts) + "\n"
