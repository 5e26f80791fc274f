"""The histograms at the end of a training."""

from __future__ import annotations

import numpy as np
import pytest

from manualbp.parity.trajectories.free_running import BINS, histogram

NEXT = np.nextafter(0.1, 1)


@pytest.mark.parametrize(
    "values", [[0.1, NEXT], [1e300, np.nextafter(1e300, np.inf)], [0.1, 0.1], [-3e17] * 2,
               [0.0] * 2, [1.0, 2.0], [5e-324, 0.0], [np.nan, 1.0, np.inf, 1.0]],
)  # fmt: skip
def test_every_finite_value_is_in_a_bin(values: list[float]) -> None:
    """Also where they are nearer to each other than ``BINS`` numbers of float64 in a row."""
    found = histogram(np.array(values))
    assert sum(found.counts) == 2 and len(found.counts) == BINS and len(found.edges) == BINS + 1
    assert all(low < high for low, high in zip(found.edges, found.edges[1:], strict=False))


def test_no_value_at_all() -> None:
    assert sum(histogram(np.array([np.nan])).counts) == 0
