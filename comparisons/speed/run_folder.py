"""The folder of a run: speed.json, speed.md, the figures, and TensorBoard's event files.

All of it is made first and written then, into folders that were not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comparisons import machine, output
from comparisons.output import json_text
from comparisons.speed import figures
from comparisons.speed.record import JSON, from_record
from comparisons.speed.results import Result, present
from comparisons.speed.tables import page
from comparisons.speed.workloads import TABLE, coordinate
from manualbp.parity.cli import options
from manualbp.parity.reports.tensorboard import RunLog

MARKDOWN = "speed.md"
FIGURES = "figures"


def check_new(log_dir: Path, name: str, folder: Path | None) -> None:
    """Nothing is measured for a folder that is taken already."""
    options.free_run(log_dir, name)
    if folder is not None and folder.exists():
        raise options.UsageError(
            f"expected a new folder, got {folder}, which is there; choose another --output"
        )


def write(written: dict[str, Any], log_dir: Path, name: str, folder: Path | None) -> RunLog:
    """Everything that follows from a record; ``folder`` is the run's own unless given."""
    results = from_record(written)
    drawn = figures.figures(results, machine.line(written["machine"]))
    pictures = {file: figures.pixels(figure) for file, figure in drawn.items()}
    contents = {JSON: json_text(written).encode(), MARKDOWN: page(written).encode()}
    contents |= {file: figures.png(picture) for file, picture in pictures.items()}
    if folder is not None:
        with output.writing(folder, "--output"):
            folder.mkdir(parents=True)
    with output.new_run(log_dir, name, [FIGURES, *map(_event_folder, present(results))]) as log:
        for file, content in contents.items():
            ((folder or log.path) / file).write_bytes(content)
        log.text(FIGURES, "speed", page(written))
        for file, picture in pictures.items():
            log.image(FIGURES, file.removesuffix(".png"), picture)
        _log_curves(log, results)
    return log


def _log_curves(log: RunLog, results: Sequence[Result]) -> None:
    """The sweeps as scalars; the step is the number that was swept over."""
    for result in results:
        if result.part in (*TABLE, "dtype"):
            continue
        swept = result.part in ("depth", "width")
        net = result.part if swept else f"{result.part}_{result.workload.net}"
        step = coordinate(result.part, result.workload)
        for arm in result.times:
            values = {
                "milliseconds": result.milliseconds(arm),
                "speed_up": result.speed_up(arm),
                "over_floor": result.over_floor(arm),
                "peak_megabytes": result.megabytes(arm),
            }
            for what, value in values.items():
                if value is not None:
                    log.scalar(_event_folder(arm), f"{what}/{net}", value, step)


def _event_folder(arm: str) -> str:
    return arm.replace(", ", "-").replace(" ", "-")
