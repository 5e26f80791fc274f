"""Pictures for TensorBoard's image page, drawn by matplotlib into memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import takewhile
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from manualbp.parity.record import AGREE, DIFFER, NOT_JUDGED, GradientReport, TensorReport, over
from manualbp.parity.reports import charts
from manualbp.parity.training_record import Report
from manualbp.parity.versions import INSTALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

# At most: rows of a picture that can be read, letters of a label, and steps across.
ROWS, LETTERS, COLUMNS = 30, 28, 512
# Colours go to this log10 of a share on either side: from a hundredth of what is allowed to 100.
DECADES = 2.0
UNKNOWN = "black"
COLOURS = {AGREE: "#4a90c2", DIFFER: "#c62828", NOT_JUDGED: "#9e9e9e"}
# TensorBoard shows a picture 350 pixels wide, half of this. Its letters are 11 pixels high then.
WIDTH, DPI, POINTS = 4.0, 175, 9


def pictures(report: Report) -> list[tuple[str, str, NDArray[np.uint8]]]:
    """Folder, tag and pixels (height, width, colour) of every picture of a report.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if isinstance(report, GradientReport):
        return [(charts.WHOLE, "error_over_allowed", bars(report))] if report.tensors else []
    found = []
    for run in report.runs:
        for tag, what, quantity in (
            ("heat_map/drift", "drift", "share"),
            ("heat_map/forced", "gradient error, teacher-forced,", "forced"),
        ):
            if any((shares := charts.with_peaks(run, quantity)).values()):
                drawn = heat_map(shares, f"{run.name}\n{what} over allowed")
                found.append((f"{charts.folder(run)}/{charts.PARITY}", tag, drawn))
    return found


def heat_map(shares: Mapping[str, Mapping[int, float]], title: str) -> NDArray[np.uint8]:
    """log10 of a share (error over allowed), tensor by step: red above 1, blue below.

    Black is NaN or was not measured. Of more than ``ROWS`` tensors the worst are shown.

    Raises:
        ValueError: there is no tensor or no step.
        ImportError: matplotlib is not installed.
    """
    steps = sorted({step for by_step in shares.values() for step in by_step})
    if not steps:
        raise ValueError("expected at least one tensor with one step, got none; leave it out")
    names, note = _shown({name: _peak(by_step.values()) for name, by_step in shares.items()})
    steps = steps[:: -(-len(steps) // COLUMNS)]
    drawn = figure(WIDTH, height := 1.9 + 0.2 * len(names))
    drawn.get_layout_engine().set(rect=(0, 0.6 / height, 1, 1 - 0.6 / height))
    axes, below = drawn.add_subplot(), drawn.add_axes((0.1, 0.45 / height, 0.8, 0.1 / height))
    from matplotlib import colormaps

    colours = colormaps["RdBu_r"].with_extremes(bad=UNKNOWN)
    values = [[_bounded(shares[name].get(step, math.nan)) for step in steps] for name in names]
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=-DECADES, vmax=DECADES,
                        aspect="auto", interpolation="nearest")  # fmt: skip
    short, prefix = _labels(names)
    axes.set_yticks(range(len(names)), short, fontsize=POINTS)
    marks = np.unique(np.linspace(0, len(steps) - 1, 4).round().astype(int))
    axes.set_xticks(marks, [str(steps[mark]) for mark in marks], fontsize=POINTS)
    axes.set_xlabel("step", fontsize=POINTS)
    _title(drawn, title + note + prefix)
    bar = drawn.colorbar(image, below, orientation="horizontal", extend="both")
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/100", "1/10", "1", "10", "100"], fontsize=POINTS)
    bar.set_label("red, above 1: wrong", fontsize=POINTS)
    return _pixels(drawn)


def bars(report: GradientReport) -> NDArray[np.uint8]:
    """Error over allowed per tensor, its axis logarithmic.

    Blue agrees, red differs, grey is not judged. In brackets the number of elements beyond their
    own limit; one is enough to differ. A tensor that no number can judge (missing, another shape,
    NaN) has a full bar and ``?``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    found = {tensor.name: tensor for tensor in report.tensors}
    names, note = _shown({n: t.share if t.agrees else math.inf for n, t in found.items()})
    shares = [over(found[name].candidate_error, found[name].allowed) for name in names]
    judged = [share for share in shares if math.isfinite(share) and share > 0]
    low = min(0.01, *judged) / 2 if judged else 0.005
    high = max(10.0, *judged) * 2 if judged else 20.0
    drawn = figure(WIDTH, 1.5 + 0.24 * max(len(names), 1))
    axes = drawn.add_subplot()
    for row, (name, share) in enumerate(zip(names, shares, strict=True)):
        _bar(axes, row, found[name], share, low, high)
    axes.axvline(1.0, color="black", linewidth=2, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(low, high * (high / low) ** 0.35)  # room for the last label
    short, prefix = _labels(names)
    axes.set_yticks(range(len(names)), short, fontsize=POINTS)
    axes.tick_params(axis="x", labelsize=POINTS)
    axes.invert_yaxis()
    drawn.supxlabel("rms error over allowed, the limit is 1\n"
                    "(in brackets: elements beyond their own limit)", fontsize=POINTS)  # fmt: skip
    title = f"{report.candidate} against {report.reference}\n{report.verdict}"
    _title(drawn, title + note + prefix)
    return _pixels(drawn)


def _bar(axes: Any, row: int, tensor: TensorReport, share: float, low: float, high: float) -> None:
    """One tensor's bar and its number, between the ends of the axis."""
    known = math.isfinite(share)
    width = max(share, low) if known else high
    axes.barh(row, width, color=COLOURS[tensor.verdict],
              hatch=None if known else "//", edgecolor="white", linewidth=0)  # fmt: skip
    label = f"{share:.2g}" if known else "?"
    label += f" ({tensor.differing})" if tensor.differing else ""
    axes.annotate(label, (min(width, high), row), (3, 0), textcoords="offset points",
                  va="center", fontsize=POINTS, zorder=4,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip


def _peak(values: Iterable[float]) -> float:
    return max((math.inf if math.isnan(v) else v for v in values), default=0.0)


def _bounded(share: float) -> float:
    """log10 of a share within the colours; NaN stays NaN."""
    return max(-DECADES, min(DECADES, charts.log10(share))) if share == share else share


def figure(width: float, height: float) -> Any:
    """An empty figure in inches, without pyplot and its global state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib; {INSTALL}") from error
    empty = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def _shown(badness: Mapping[str, float]) -> tuple[list[str], str]:
    """The names to draw, in their order, and a line that says how many are left out."""
    if len(badness) <= ROWS:
        return list(badness), ""
    worst = set(sorted(badness, key=lambda name: -badness[name])[:ROWS])
    left = len(badness) - ROWS
    return [n for n in badness if n in worst], f"\nthe worst {ROWS} tensors; {left} are left out"


def _labels(names: list[str]) -> tuple[list[str], str]:
    """Short names, and a line with the beginning that was cut off from all of them.

    Names that are still long lose their middle, unless two would look the same.
    """
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    long = any(len(name) > LETTERS for name in names)
    same = takewhile(lambda part: long and len(set(part)) == 1, parts)
    common = "".join(f"{part[0]}." for part in same)
    rest = [name[len(common) :] for name in names]
    short = [n if len(n) <= LETTERS else f"{n[:3]}\N{HORIZONTAL ELLIPSIS}{n[4 - LETTERS :]}"
             for n in rest]  # fmt: skip
    apart = short if len(set(short)) == len(names) else rest
    return apart, f"\neach name begins with {common}" if common else ""


def _title(drawn: Any, title: str) -> None:
    """Lines short enough for the width; a dollar sign is one, not the start of a formula."""
    wrapped = "\n".join(fill(line, 46) for line in title.split("\n"))
    drawn.suptitle(wrapped, fontsize=POINTS, parse_math=False)


def _pixels(drawn: Any) -> NDArray[np.uint8]:
    """Height, width, and red, green, blue."""
    drawn.canvas.draw()
    return np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()
