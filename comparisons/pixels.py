"""A figure of matplotlib's as pixels for TensorBoard, and as a file."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

DPI = 150


def of(figure: Figure, dpi: int | None = None) -> NDArray[np.uint8]:
    """(height, width, 3), as TensorBoard takes it; ``dpi`` is ``DPI`` unless given."""
    figure.set_dpi(dpi or DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    image = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(image, dtype=np.uint8)[..., :3].copy()


def png(picture: NDArray[np.uint8]) -> bytes:
    """A file's contents."""
    out = io.BytesIO()
    imsave(out, picture, format="png", dpi=DPI)
    return out.getvalue()
