"""Histograms of the gradients at the end of a training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manualbp.parity.arms.forward import Tensors
from manualbp.parity.training_record import Histogram

BINS = 30


def gradient_histograms(ours: Tensors, theirs: Tensors) -> dict[str, Histogram]:
    """Both arms' gradients and their differences, by the tags of a Trajectory."""
    found = {}
    for name in (n for n in theirs if n.endswith(".grad")):
        c, r = ours.get(name), theirs[name]
        if c is None or r is None or c.shape != r.shape:
            continue
        parameter = name.removesuffix(".grad")
        mine, other = (t.double().cpu().numpy().ravel() for t in (c, r))
        found[f"gradients/candidate/{parameter}"] = histogram(mine)
        found[f"gradients/reference/{parameter}"] = histogram(other)
        found[f"differences/{parameter}"] = histogram(mine - other)
    return found


def histogram(values: NDArray[np.float64]) -> Histogram:
    """The finite values in ``BINS`` bins."""
    finite = values[np.isfinite(values)]
    top = np.abs(finite).max(initial=0.0)
    margin, limits = BINS * np.spacing(top), None
    if top and np.ptp(finite) < margin:  # numbers so near each other have no bins between them
        limits = float(finite.min() - margin), float(finite.max() + margin)
    counts, edges = np.histogram(finite, bins=BINS, range=limits)
    return Histogram(tuple(int(c) for c in counts), tuple(float(e) for e in edges))
