"""A figure in memory, the labels of its rows, its title, and its pixels; by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# At most: rows of a picture that can be read, and letters of a label.
ROWS, LETTERS = 30, 28
# TensorBoard shows a picture 350 pixels wide, half of this. Its letters are 11 pixels high then.
WIDTH, DPI, POINTS = 4.0, 175, 9


def figure(width: float, height: float) -> Any:
    """An empty figure in inches, without pyplot and its global state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "manualbp.parity.reports needs matplotlib; "
            'install it with: pip install "manualbp[parity]"'
        ) from error
    empty = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def shown(badness: Mapping[str, float]) -> tuple[list[str], str]:
    """The names to draw, in their order, and a line that says how many are left out."""
    if len(badness) <= ROWS:
        return list(badness), ""
    worst = set(sorted(badness, key=lambda name: -badness[name])[:ROWS])
    left = len(badness) - ROWS
    return [n for n in badness if n in worst], f"\nthe worst {ROWS} tensors; {left} are left out"


def labels(names: list[str]) -> tuple[list[str], str]:
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


def set_title(drawn: Any, title: str) -> None:
    """Lines short enough for the width; a dollar sign is one, not the start of a formula."""
    wrapped = "\n".join(fill(line, 46) for line in title.split("\n"))
    drawn.suptitle(wrapped, fontsize=POINTS, parse_math=False)


def pixels(drawn: Any) -> NDArray[np.uint8]:
    """Height, width, and red, green, blue."""
    drawn.canvas.draw()
    return np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()
