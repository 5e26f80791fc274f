"""Real data, standardized and split by a seed, and seeded batches: one stream for both arms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manualbp.parity.arms.calls import moved

NAMES = ("digits", "diabetes")
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Dataset:
    """Inputs (N, features) and targets, split: class indices (N,), or real numbers (N, outputs)."""

    name: str
    x: Tensor
    y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    outputs: int

    @property
    def classification(self) -> bool:
        """Whether targets are class indices."""
        return not self.y.is_floating_point()

    def to(self, device: torch.device, dtype: torch.dtype) -> Dataset:
        """The same data on a device; inputs and real targets in a dtype."""
        tensors = (self.x, self.y, self.validation_x, self.validation_y)
        x, y, validation_x, validation_y = moved(tensors, dtype, device)
        return Dataset(self.name, x, y, validation_x, validation_y, self.outputs)


def load(name: str, seed: int) -> Dataset:
    """A data set by name, or from a file.

    digits: 1,797 images of 8 x 8 pixels, 10 classes. diabetes: 442 patients, 10 measurements, the
    disease's progress after a year. Both come with scikit-learn. ``FILE.npz``: arrays x
    (N, features) and y, whole numbers (N,) for classes or real numbers (N,) or (N, outputs).

    Inputs and real targets are standardized by the training rows: mean 0, variance 1. A validation
    loss of 1 on diabetes is therefore that of always predicting the mean.

    Raises:
        ValueError: an empty data set, NaN or infinity, shapes that do not fit.
        ImportError: scikit-learn is not installed.
    """
    x, y = _read(name)
    _check(name, x, y)
    order = np.random.default_rng(seed).permutation(len(x))
    count = max(1, round(len(x) * VALIDATION_SHARE))
    rows, held_out = order[count:], order[:count]
    x = _standardized(x, rows)
    if y.dtype.kind == "f":
        y = _standardized(y.reshape(len(y), -1), rows)
        outputs = y.shape[1]
    else:
        y, outputs = y.astype(np.int64), int(y.max()) + 1
    train_x, train_y = torch.from_numpy(x[rows]), torch.from_numpy(y[rows])
    other_x, other_y = torch.from_numpy(x[held_out]), torch.from_numpy(y[held_out])
    return Dataset(Path(name).stem, train_x, train_y, other_x, other_y, outputs)


def batches(data: Dataset, size: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every training row once per epoch, in an order from ``seed``; the last batch may be short."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(data.x), generator=generator).to(data.x.device)
        for rows in torch.split(order, size):
            yield data.x[rows], data.y[rows]


def _read(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if name.endswith(".npz"):
        try:
            with np.load(name) as file:
                return file["x"], file["y"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"expected {name} to be a file of arrays x and y, got: {error}; "
                "write it with numpy.savez(file, x=x, y=y)"
            ) from None
    from sklearn import datasets  # an extra; cli.main says how to install it

    bunch = datasets.load_digits() if name == "digits" else datasets.load_diabetes(scaled=False)
    return bunch.data, bunch.target


def _check(name: str, x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim != 2 or x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected x (N, features) and y of numbers, got x {x.shape} {x.dtype} and "
            f"y {y.shape} {y.dtype}; reshape or encode them first"
        )
    if len(x) < 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name}: expected at least 2 rows, one to train on and one to validate, of at least "
            f"1 feature, got {x.shape}; is the data set empty?"
        )
    if len(y) != len(x) or y.ndim > 2 or (y.dtype.kind != "f" and (y.ndim != 1 or y.min() < 0)):
        raise ValueError(
            f"{name}: expected one target per row, class indices ({len(x)},) from 0 up or real "
            f"values ({len(x)}, outputs), got {y.shape} {y.dtype}; encode labels as 0, 1, 2, ..."
        )
    for what, values in (("x", x), ("y", y)):
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise ValueError(
                f"{name}: expected finite numbers, got {wrong} NaN or infinite of {values.size} "
                f"in {what}; drop those rows or fill them in"
            )


def _standardized(values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """(values - mean) / deviation over ``rows``; constant columns become 0."""
    mean, deviation = values[rows].mean(0), values[rows].std(0)
    return np.asarray((values - mean) / np.where(deviation > 0, deviation, 1.0), dtype=np.float64)
