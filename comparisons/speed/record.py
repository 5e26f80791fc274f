"""What a run leaves behind: speed.json, speed.md, the figures, and TensorBoard's event files.

speed.json has the medians with their spreads, a line for each cell, and is read back; all else
follows from it. All files are made first and written then, into folders that were not there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparisons import machine, output, pixels
from comparisons.speed import figures
from comparisons.speed.arms.arm import ARMS, AUTOGRAD
from comparisons.speed.arms.costs import COSTS
from comparisons.speed.floor import BYTES, PRODUCTS, Rates
from comparisons.speed.results import Measured, Ratio, Result, present
from comparisons.speed.tables.page import page
from comparisons.speed.workloads import (
    DTYPES,
    ON_GPU,
    ON_REQUEST,
    PARTS,
    Workload,
    coordinate,
)
from manualbp.maths.activations import ACTIVATIONS
from manualbp.parity.cli import options
from manualbp.parity.reports.tensorboard import RunLog

JSON, MARKDOWN, FIGURES = "speed.json", "speed.md", "figures"


OF_EACH_ARM = ["ms", "autograd's ms / its ms", "spread of that", "peak MB"]


def record(
    results: Sequence[Result],
    where: Mapping[str, str | int],
    rates: Rates | None,
    notes: Sequence[str],
    differing: Sequence[str] = (),
) -> dict[str, Any]:
    """All that is written to speed.json: milliseconds and megabytes, to four digits.

    Args:
        results: what was measured.
        where: describes the machine.
        rates: of products and of a copy; None if the run ended before they were measured.
        notes: what is absent, and why.
        differing: the arms that were left out because they compute something else.
    """
    products = (
        {dtype: _rounded(rate / 1e9) for dtype, rate in rates.operations.items()} if rates else {}
    )
    return {
        "machine": dict(where),
        "GFLOP_per_second": products,
        "GB_per_second": {"copy": _rounded(rates.bytes / 1e9)} if rates else {},
        "notes": list(notes),
        "differing": list(differing),
        "of_each_arm": OF_EACH_ARM,
        "cells": [_cell(result) for result in results],
    }


def _cell(result: Result) -> dict[str, Any]:
    of_workload = {"part": result.part, **asdict(result.workload)}
    of_workload["widths"] = list(result.workload.widths)
    if not result.workload.beside:
        del of_workload["beside"]
    floors = {name: _rounded(1e3 * seconds) for name, seconds in result.floors.items()}
    return {**of_workload, "floors": floors,
            "arms": {arm: _numbers(measured) for arm, measured in result.arms.items()}}  # fmt: skip


def _numbers(measured: Measured) -> list[float | None]:
    peak = None if measured.peak is None else measured.peak / 1e6
    values = (1e3 * measured.seconds, *measured.speed_up, peak)
    return [None if value is None else _rounded(value) for value in values]


def _rounded(value: float) -> float:
    """Four digits: rounds differ by more."""
    return float(f"{value:.4g}")


def from_record(written: Mapping[str, Any]) -> list[Result]:
    """The results that a record was made of, to four digits."""
    return [
        Result(
            cell["part"],
            Workload(cell["step"], tuple(cell["widths"]), cell["batch"], cell["activation"],
                     cell["dtype"], cell.get("beside", 0)),
            {arm: _measured(*numbers) for arm, numbers in cell["arms"].items()},
            {name: milliseconds / 1e3 for name, milliseconds in cell["floors"].items()},
        )
        for cell in written["cells"]
    ]  # fmt: skip


def _measured(ms: float, speed_up: float, spread: float, megabytes: float | None) -> Measured:
    peak = None if megabytes is None else round(1e6 * megabytes)
    return Measured(ms / 1e3, Ratio(speed_up, spread), peak)


def json_text(written: Mapping[str, Any]) -> str:
    """The record as JSON: a line for each cell, each note and each fact; NaN is an error."""
    parts = []
    for name, value in written.items():
        inside = [f"  {_line(each)}" for each in value] if isinstance(value, list) else [
            f"  {_line(key)}: {_line(each)}" for key, each in value.items()]  # fmt: skip
        brackets = "[]" if isinstance(value, list) else "{}"
        body = ("\n" + ",\n".join(inside) + "\n ") if inside else ""
        parts.append(f" {_line(name)}: {brackets[0]}{body}{brackets[1]}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def read(path: Path) -> dict[str, Any]:
    """The record of an earlier run.

    Raises:
        UsageError: it is none, or damaged.
    """
    try:
        written = json.loads(path.read_text())
        for cell in written["cells"]:
            _check(cell)
        if not all(isinstance(value, str | int) for value in written["machine"].values()):
            raise ValueError("the machine is not described by words and whole numbers")
        json_text(written)  # no NaN, no infinity
        page(written, from_record(written))
        machine.line(written["machine"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError,
            RecursionError) as error:  # fmt: skip
        said = error.strerror if isinstance(error, OSError) else options.one_line(error)
        raise options.UsageError(
            f"expected the {JSON} of an earlier run, got {options.short(str(path))} "
            f"({type(error).__name__}: {said})"
        ) from None
    return dict(written)


def _check(cell: Mapping[str, Any]) -> None:
    """Refuse a cell that no run of this version has measured.

    Raises:
        ValueError: names that are not known, numbers that cannot be.
    """
    names: dict[str, Collection[str]] = {
        "part": PARTS | ON_GPU | ON_REQUEST, "step": COSTS, "dtype": DTYPES,
        "activation": ACTIVATIONS,
    }  # fmt: skip
    for what, known in names.items():
        if cell[what] not in known:
            raise ValueError(f"no {what} of this version: {cell[what]!r:.40}")
    if not {AUTOGRAD} <= set(cell["arms"]) <= set(ARMS):
        raise ValueError("its arms are not those of this version")
    if not set(cell["floors"]) <= {PRODUCTS, BYTES}:
        raise ValueError("its floors are not those of this version")
    counts = [*cell["widths"], cell["batch"]]
    if len(counts) < 3 or not all(isinstance(n, int) and 0 < n < 2**40 for n in counts):
        raise ValueError("widths and batch are not whole numbers above 0")
    numbers = [n for arm in cell["arms"].values() for n in arm if n is not None]
    numbers += cell["floors"].values()
    if not all(0 <= number < 1e12 for number in numbers):
        raise ValueError("a time, a ratio or a size is below 0, too large or no number")


def write(written: dict[str, Any], log_dir: Path, name: str, folder: Path | None) -> RunLog:
    """Everything that follows from a record; ``folder`` is the run's own unless given."""
    results = from_record(written)
    drawn = figures.figures(results, machine.line(written["machine"]))
    pictures = {file: pixels.of(figure) for file, figure in drawn.items()}
    markdown = page(written, results)
    contents = {JSON: json_text(written).encode(), MARKDOWN: markdown.encode()}
    contents |= {file: pixels.png(picture) for file, picture in pictures.items()}
    if folder is not None:
        with output.writing(folder, "--output"):
            folder.mkdir(parents=True)
    with output.new_run(log_dir, name, [FIGURES, *map(_event_folder, present(results))]) as log:
        for file, content in contents.items():
            ((folder or log.path) / file).write_bytes(content)
        log.text(FIGURES, "speed", markdown)
        for file, picture in pictures.items():
            log.image(FIGURES, f"1_{FIGURES}/{file.removesuffix('.png')}", picture)
        _log_curves(log, results)
    return log


def _log_curves(log: RunLog, results: Sequence[Result]) -> None:
    """The sweeps as scalars; the step is the number that was swept over.

    TensorBoard sorts tags by name and opens the first two groups: the figures and these.
    """
    for result in results:
        if result.part not in ("batch", "depth", "width", "gpu"):
            continue
        swept = result.part in ("depth", "width")
        net = result.part if swept else f"{result.part}_{result.workload.net}"
        step = coordinate(result.part, result.workload)
        for arm, measured in result.arms.items():
            values = {
                "2_speed_up": measured.speed_up.median,
                "milliseconds": result.milliseconds(arm),
                "over_floor": result.over_floor(arm),
                "peak_megabytes": result.megabytes(arm),
            }
            for what, value in values.items():
                if value is not None:
                    log.scalar(_event_folder(arm), f"{what}/{net}", value, step)


def _event_folder(arm: str) -> str:
    return arm.replace(", ", "-").replace(" ", "-")
