"""Pictures for TensorBoard's image page, drawn by matplotlib into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from manualbp.parity.charts import (
    PARITY,
    WHOLE,
    drift_shares,
    folder,
    forced_shares,
    log_divergence,
)
from manualbp.parity.record import GradientReport, TensorReport, TrainingReport, over

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows a picture can hold and still be read, and steps across.
ROWS, COLUMNS = 48, 512
# log10 of a share is coloured from here to there: a hundredth of what is allowed to 100 times.
DECADES = 2.0
WRONG, RIGHT, UNKNOWN = "#c62828", "#4a90c2", "black"
# A picture is shown at half its size or less: few inches make large letters.
WIDTH, DPI = 6.0, 130


def figure(width: float, height: float) -> Any:
    """An empty figure in inches, beside pyplot and its global state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "manualbp.parity.pictures needs matplotlib; "
            'install it with: pip install "manualbp[parity]"'
        ) from error
    empty = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def pictures(report: GradientReport | TrainingReport) -> list[tuple[str, str, NDArray[np.uint8]]]:
    """Folder, tag and pixels (height, width, colour) of every picture of a report.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if isinstance(report, GradientReport):
        return [(WHOLE, "error_over_allowed", bars(report))] if report.tensors else []
    found = []
    for run in report.runs:
        for tag, what, shares in (
            ("heat_map/drift", "drift", drift_shares(run)),
            ("heat_map/forced", "gradient error, teacher-forced,", forced_shares(run)),
        ):
            if any(shares.values()):
                pixels = heat_map(shares, f"{run.name}\n{what} over allowed")
                found.append((f"{folder(run)}/{PARITY}", tag, pixels))
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
    rows = [[shares[name].get(step, math.nan) for step in steps] for name in names]
    drawn = figure(WIDTH, 1.5 + 0.26 * len(names))
    axes = drawn.add_subplot()
    from matplotlib import colormaps

    colours = colormaps["RdBu_r"].with_extremes(bad=UNKNOWN)
    logarithms = np.ma.masked_invalid([[_bounded(value) for value in row] for row in rows])
    image = axes.imshow(
        logarithms,
        cmap=colours,
        vmin=-DECADES,
        vmax=DECADES,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_yticks(range(len(names)), names, fontsize=9)
    marks = np.unique(np.linspace(0, len(steps) - 1, 7).round().astype(int))
    axes.set_xticks(marks, [str(steps[mark]) for mark in marks])
    axes.set_xlabel("step")
    axes.set_title(title + note, fontsize=10)
    bar = drawn.colorbar(image, ax=axes, extend="both", ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["1/100", "1/10", "1", "10", "100"])
    bar.set_label("red: wrong")
    return _pixels(drawn)


def bars(report: GradientReport) -> NDArray[np.uint8]:
    """Error over allowed per tensor, its axis logarithmic: red differs, blue agrees.

    In brackets the elements beyond their own limit, which make a tensor differ by themselves. One
    that no number can judge (missing, another shape, NaN) has a bar across and ``?``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    found = {tensor.name: tensor for tensor in report.tensors}
    names, note = _shown({n: t.share if t.agrees else math.inf for n, t in found.items()})
    shares = [_share(found[name]) for name in names]
    judged = [share for share in shares if math.isfinite(share) and share > 0]
    low = min(0.01, *judged) / 2 if judged else 0.005
    high = max(10.0, *judged) * 2 if judged else 20.0
    drawn = figure(WIDTH, 1.5 + 0.3 * max(len(names), 1))
    axes = drawn.add_subplot()
    for row, (name, share) in enumerate(zip(names, shares, strict=True)):
        known = math.isfinite(share)
        width = max(share, low) if known else high
        axes.barh(row, width, color=RIGHT if found[name].agrees else WRONG,
                  hatch=None if known else "//", edgecolor="white", linewidth=0)  # fmt: skip
        count = found[name].differing
        label = (f"{share:.2g}" if known else "?") + (f" ({count} elements)" if count else "")
        axes.annotate(f" {label}", (min(width, high), row), va="center", fontsize=9)
    axes.axvline(1.0, color="black", linewidth=2, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(low, high * (high / low) ** 0.35)  # room for the last label
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("rms error over allowed (1: the limit)")
    axes.set_title(f"{report.candidate} against {report.reference}\n{report.verdict}{note}",
                   fontsize=10)  # fmt: skip
    return _pixels(drawn)


def _shown(badness: Mapping[str, float]) -> tuple[list[str], str]:
    """The names to draw, in their order, and what to say of those left out."""
    if len(badness) <= ROWS:
        return list(badness), ""
    worst = set(sorted(badness, key=lambda name: -badness[name])[:ROWS])
    return [n for n in badness if n in worst], f"; the worst {ROWS} of {len(badness)} tensors"


def _share(tensor: TensorReport) -> float:
    if math.isnan(tensor.candidate_error):
        return math.nan
    return over(tensor.candidate_error, tensor.allowed)


def _peak(values: Any) -> float:
    return max((math.inf if math.isnan(v) else v for v in values), default=0.0)


def _bounded(share: float) -> float:
    """log10 of a share within the colours; NaN stays NaN."""
    return max(-DECADES, min(DECADES, log_divergence(share))) if share == share else share


def _pixels(drawn: Any) -> NDArray[np.uint8]:
    drawn.canvas.draw()
    return np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()
