"""What a run leaves behind: speed.json, speed.md, the figures, and TensorBoard's event files.

speed.json has the results with all that follows from them, and is read back. All files are made
first and written then, into folders that were not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparisons import machine, output
from comparisons.speed import figures
from comparisons.speed.arms.arm import AUTOGRAD, AUTOGRAD_GRAPHS, COMPILED, JAX, OURS
from comparisons.speed.floor import PRODUCTS, Rates
from comparisons.speed.results import Ratio, Result, present, quartiles
from comparisons.speed.tables import page
from comparisons.speed.workloads import TABLE, Workload, coordinate
from manualbp.parity.cli import options
from manualbp.parity.reports.tensorboard import RunLog

JSON, MARKDOWN, FIGURES = "speed.json", "speed.md", "figures"


def record(
    results: Sequence[Result],
    where: Mapping[str, str | int],
    rates: Rates | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Everything, as it is written to speed.json; times in seconds, memory in bytes.

    ``where`` describes the machine. ``rates`` is None if the run ended before they were measured.
    """
    return {
        "machine": dict(where),
        "operations_per_second": dict(rates.operations) if rates else {},
        "bytes_per_second": rates.bytes if rates else None,
        "notes": list(notes),
        "cells": [_cell(result) for result in results],
    }


def _cell(result: Result) -> dict[str, Any]:
    arms = {}
    for arm, seconds in result.times.items():
        low, middle, high = quartiles(seconds)
        arms[arm] = {
            "seconds": list(seconds),
            "median": middle,
            "quartiles": [low, high],
            "autograd_over_this": _pair(result.ratio(AUTOGRAD, arm)),
            "over_floor": result.over_floor(arm),
            "peak_bytes": result.memory.get(arm),
        }
    return {
        "part": result.part,
        **asdict(result.workload),
        "widths": list(result.workload.widths),
        "floor_seconds": result.floor,
        "floors": dict(result.floors),
        "fastest_of_ours": result.fastest(OURS),
        "compile_over_ours": _pair(result.against_ours(COMPILED)),
        "graphs_over_ours": _pair(result.against_ours([AUTOGRAD_GRAPHS])),
        "jax_over_ours": _pair(result.against_ours([JAX])),
        "arms": arms,
    }


def _pair(found: Ratio | None) -> dict[str, float] | None:
    return None if found is None else found._asdict()


def from_record(written: Mapping[str, Any]) -> list[Result]:
    """The results that a record was made of."""
    return [
        Result(
            cell["part"],
            Workload(cell["step"], tuple(cell["widths"]), cell["batch"], cell["activation"],
                     cell["dtype"]),
            {arm: found["seconds"] for arm, found in cell["arms"].items()},
            {arm: found["peak_bytes"] for arm, found in cell["arms"].items()
             if found["peak_bytes"] is not None},
            _floors(cell),
        )
        for cell in written["cells"]
    ]  # fmt: skip


def _floors(cell: Mapping[str, Any]) -> dict[str, float]:
    """Older records have one floor, that of the products."""
    if "floors" in cell or cell["floor_seconds"] is None:
        return dict(cell.get("floors", {}))
    return {PRODUCTS: cell["floor_seconds"]}


def read(path: Path) -> dict[str, Any]:
    """The record of an earlier run."""
    try:
        written = json.loads(path.read_text())
        from_record(written)
        machine.line(written["machine"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise options.UsageError(
            f"expected the {JSON} of an earlier run, got {path} ({type(error).__name__}: {error})"
        ) from None
    return dict(written)


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
    markdown = page(written, results)
    contents = {JSON: output.json_text(written).encode(), MARKDOWN: markdown.encode()}
    contents |= {file: figures.png(picture) for file, picture in pictures.items()}
    if folder is not None:
        with output.writing(folder, "--output"):
            folder.mkdir(parents=True)
    with output.new_run(log_dir, name, [FIGURES, *map(_event_folder, present(results))]) as log:
        for file, content in contents.items():
            ((folder or log.path) / file).write_bytes(content)
        log.text(FIGURES, "speed", markdown)
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
