"""The results as figures: speed-up over autograd, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from comparisons.speed.arms.arm import AUTOGRAD
from comparisons.speed.results import Result, present
from comparisons.speed.workloads import coordinate

# Colour and marker of every arm: ours blue and green, others warm or grey.
STYLE: dict[str, tuple[str, str]] = {
    "autograd": ("#555555", "s"),
    "autograd, graphs": ("#8a8a8a", "d"),
    "compile": ("#f2b46d", "v"),
    "compile, loss": ("#d9731a", "^"),
    "compile, max-autotune": ("#a34a00", "<"),
    "exact": ("#8cc0e8", "o"),
    "fast": ("#1f77b4", "D"),
    "FusedLoss": ("#0b7a5b", "P"),
    "FusedLoss, no graph": ("#12c28f", ">"),
    "fast, graphs": ("#0d3f66", "p"),
    "FusedLoss, graphs": ("#63b99b", "h"),
    "derivatives": ("#0e5aa7", "8"),
    "derivatives, Python": ("#5aa2d8", "H"),
    "torch.func": ("#c9a227", "x"),
    "jet-for-pytorch": ("#c2554e", "+"),
    "JAX": ("#a05fb0", "X"),
    "JAX, jet": ("#6d3b80", "1"),
    "scikit-learn": ("#b5b5b5", "*"),
}
Value = Callable[[Result, str], "float | None"]


def figures(results: Sequence[Result], footnote: str) -> dict[str, Figure]:
    """By file name; only those that something was measured for."""
    names = dict.fromkeys(result.part for result in results)
    parts = {name: [result for result in results if result.part == name] for name in names}
    found: dict[str, Figure] = {}
    for part in ("rows", "gpu"):
        if part in parts:
            found[f"{part}.png"] = bars(parts[part], footnote)
    if "batch" in parts:
        found["batch.png"] = panels(parts["batch"], speed_up, footnote)
        found["memory.png"] = panels(parts["batch"], Result.megabytes, footnote)
    for part in ("depth", "width"):
        if part in parts:
            found[f"{part}.png"] = single(part, parts[part], footnote)
    return found


def speed_up(result: Result, arm: str) -> float | None:
    """autograd / arm; None for autograd itself."""
    found = result.speed_up(arm)
    return None if arm == AUTOGRAD or found is None else found.median


def bars(results: Sequence[Result], footnote: str) -> Figure:
    """A group of bars for every row, to the right of 1 where the arm is faster than autograd."""
    arms = [arm for arm in present(results) if arm != AUTOGRAD]
    figure = Figure(figsize=(9, 1.2 + len(results) * (0.2 + 0.11 * len(arms))))
    axes = figure.subplots()
    thick = 0.8 / max(len(arms), 1)
    for number, arm in enumerate(arms):
        points = [(i, value) for i, r in enumerate(results) if (value := speed_up(r, arm))]
        places = [i + (number - (len(arms) - 1) / 2) * thick for i, _ in points]
        values = np.array([value for _, value in points])
        drawn = axes.barh(places, values - 1, 0.9 * thick, left=1.0, color=STYLE[arm][0], label=arm)
        axes.bar_label(drawn, [f"{value:.2f}" for value in values], padding=3, fontsize=6)
    axes.set_yticks(range(len(results)), map(_label, results), fontsize=8)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xscale("log", base=2)
    axes.set_xlim(_ratio_ticks(axes.xaxis, results))
    axes.set_xlabel("speed-up over eager nn.Sequential with autograd (log scale)")
    axes.axvline(1, color=STYLE[AUTOGRAD][0], linewidth=1)
    axes.set_title("A training step (forward, loss, backward)", loc="left")
    for edge in (i + 0.5 for i in range(len(results) - 1)):
        axes.axhline(edge, color="#dddddd", linewidth=0.6, zorder=0)
    return _finished(figure, footnote)


def _label(result: Result) -> str:
    workload, seconds = result.workload, result.arms[AUTOGRAD].seconds
    return (
        f"{workload.net}\nbatch {workload.batch:,}, {workload.activation}\n"
        f"autograd {1e3 * seconds:,.{2 if seconds < 0.01 else 0}f} ms"
    )


def panels(results: Sequence[Result], value: Value, footnote: str) -> Figure:
    """A panel for every network of the batch sweep."""
    nets = list(dict.fromkeys(result.workload.net for result in results))
    columns = 2 if len(nets) > 1 else 1
    rows = -(-len(nets) // columns)
    figure = Figure(figsize=(4.4 * columns + 1.2, 3.2 * rows + 0.8))
    every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, net in zip(every, nets, strict=False):
        of_net = [result for result in results if result.workload.net == net]
        _curves(axes, "batch", of_net, present(results), value)
        axes.set_title(net, loc="left", fontsize=10)
        axes.set_xlabel("batch")
        axes.label_outer()
    _scales(every[0], "batch", results, value)
    return _finished(figure, footnote)


def single(part: str, results: Sequence[Result], footnote: str) -> Figure:
    """One panel of speed-ups."""
    names = {
        "depth": (f"hidden layers of {results[0].workload.widths[1]}", "Depth"),
        "width": ("width of 2 hidden layers", "Width"),
    }
    figure = Figure(figsize=(7.5, 4))
    axes = figure.subplots()
    _curves(axes, part, results, present(results), speed_up)
    _scales(axes, part, results, speed_up)
    axes.set_xlabel(names[part][0])
    axes.set_title(f"{names[part][1]}, batch {results[0].workload.batch:,}", loc="left")
    return _finished(figure, footnote)


def _curves(
    axes: Axes, part: str, results: Sequence[Result], arms: Sequence[str], value: Value
) -> None:
    for arm in arms:
        found = [(coordinate(part, r.workload), value(r, arm)) for r in results]
        points = [point for point in found if point[1] is not None]
        if points:
            colour, marker = STYLE[arm]
            wide = 3.5 if arm == AUTOGRAD else 1.4  # shows under a curve that lies on it
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5,
                      linewidth=wide, label=arm)  # fmt: skip
    if value is speed_up:
        axes.axhline(1, color=STYLE[AUTOGRAD][0], linewidth=1)
    axes.set_ylabel("speed-up over autograd" if value is speed_up else "peak memory of a step, MB")
    axes.grid(True, color="#e6e6e6", linewidth=0.6)


def _scales(axes: Axes, part: str, results: Sequence[Result], value: Value) -> None:
    """Logarithmic, with a tick for every number that was swept over."""
    axes.set_xscale("log", base=2)
    swept = sorted({coordinate(part, result.workload) for result in results})
    _set_ticks(axes.xaxis, {x: f"{x / 1024:.0f}k" if x >= 1024 else f"{x}" for x in swept})
    axes.set_yscale("log", base=2 if value is speed_up else 10)
    if value is speed_up:
        axes.set_ylim(_ratio_ticks(axes.yaxis, results))


def _ratio_ticks(axis: Axis, results: Sequence[Result]) -> tuple[float, float]:
    """Ticks for a logarithmic axis of speed-ups, and its limits."""
    values = [v for r in results for arm in r.arms if (v := speed_up(r, arm))]
    low, high = min([*values, 0.8]) / 1.25, max([*values, 1.25]) * 1.25
    steps = [
        tick for tick in (0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12) if low < tick < high
    ]
    _set_ticks(axis, {tick: f"{tick:g}" for tick in steps})
    return low, high


def _set_ticks(axis: Axis, labels: Mapping[float, str]) -> None:
    axis.set_ticks(list(labels), list(labels.values()))
    axis.set_ticks([], minor=True)


def _finished(figure: Figure, footnote: str) -> Figure:
    """The legend outside, the machine at the foot."""
    every = {
        label: handle
        for one in figure.axes
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True)
    }
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.set_layout_engine("constrained")
    figure.legend(every.values(), every.keys(), loc="outside right center", frameon=False,
                  fontsize=9)  # fmt: skip
    figure.supxlabel(footnote, x=0.01, ha="left", fontsize=6.5, color="#666666")
    return figure
