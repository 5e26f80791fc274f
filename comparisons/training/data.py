"""Real data, standardized and split by a seed, and seeded batches: one stream for both arms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

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
        """The same data on a device; inputs and real targets in a dtype.

        Raises:
            ValueError: a value is out of the dtype's range.
        """
        tensors = (self.x, self.y, self.validation_x, self.validation_y)
        x, y, validation_x, validation_y = found = moved(tensors, dtype, device)
        beyond = sum(int((~tensor.isfinite()).sum()) for tensor in found)
        if beyond:
            raise ValueError(
                f"{self.name}: expected standardized values in the range of {dtype}, got {beyond} "
                "beyond it; drop the outliers, or take float64"
            )
        return Dataset(self.name, x, y, validation_x, validation_y, self.outputs)


def load(name: str, seed: int) -> Dataset:
    """A data set by name, or from a file.

    digits: 1,797 images of 8 x 8 pixels, 10 classes. diabetes: 442 patients, 10 measurements, the
    disease's progress after a year. Both come with scikit-learn. ``FILE.npz``: arrays x
    (N, features) and y, whole numbers (N,) for classes or real numbers (N,) or (N, outputs). The
    classes are 0, 1, 2, ..., and none is without a row.

    Inputs and real targets are standardized in float64 by the training rows: mean 0, variance 1;
    a column that is constant there becomes 0. A validation loss of 1 on diabetes is therefore that
    of always predicting the mean.

    Raises:
        ValueError: a file that cannot be read, an empty data set, NaN or infinity, shapes or labels
            that do not fit, nothing that varies.
        ImportError: scikit-learn is not installed.
    """
    x, y = _read(name)
    _check_shapes(name, x, y)
    with np.errstate(over="ignore"):  # of a longdouble; it is refused as infinite
        x = x.astype(np.float64)
        y = y.astype(np.float64) if y.dtype.kind == "f" else _classes(name, y)
    _check_finite(name, x, y)
    order = np.random.default_rng(seed).permutation(len(x))
    count = max(1, round(len(x) * VALIDATION_SHARE))
    rows, held_out = order[count:], order[:count]
    x = _standardized(f"x of {name}", x, rows)
    if y.dtype.kind == "f":
        y = _standardized(f"y of {name}", y.reshape(len(y), -1), rows)
        outputs = y.shape[1]
    else:
        outputs = int(y.max()) + 1
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
            with ZipFile(name) as archive:
                damaged = archive.testzip()  # numpy reads no further than a damaged header says
            if damaged:
                raise ValueError(f"{damaged!r} is damaged")
            with np.load(name) as file:
                return np.asarray(file["x"]), np.asarray(file["y"])
        except Exception as error:  # zipfile, zlib and numpy have a dozen kinds for a damaged file
            said = str(error) or type(error).__name__
            raise ValueError(
                f"expected {name} to be a file of arrays x and y, got: {said}; "
                "write it with numpy.savez(file, x=x, y=y), both of numbers"
            ) from None
    from sklearn import datasets  # an extra; cli.main says how to install it

    bunch = datasets.load_digits() if name == "digits" else datasets.load_diabetes(scaled=False)
    return bunch.data, bunch.target


def _check_shapes(name: str, x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim != 2 or x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected x (N, features) and y of numbers, got x {x.shape} {x.dtype} and "
            f"y {y.shape} {y.dtype}; reshape or encode them first"
        )
    if len(x) < 3 or x.shape[1] == 0:
        raise ValueError(
            f"{name}: expected at least 3 rows, two to train on and one to validate, of at least "
            f"1 feature, got {x.shape}; is the data set empty?"
        )
    shapes = [(len(x),)] if y.dtype.kind != "f" else [(len(x),), (len(x), *y.shape[1:2])]
    if y.shape not in shapes or y.size == 0:
        raise ValueError(
            f"{name}: expected one target per row, class indices ({len(x)},) or real values "
            f"({len(x)}, outputs), got {y.shape} {y.dtype}; reshape or encode them first"
        )


def _classes(name: str, y: NDArray[Any]) -> NDArray[Any]:
    """The class indices, each of 0, 1, 2, ... at least once: no output without a class."""
    labels = np.unique(y)
    if len(labels) < 2 or not np.array_equal(labels, np.arange(len(labels))):
        raise ValueError(
            f"{name}: expected class indices 0, 1, 2, ..., each on a row, at least two, got "
            f"{len(labels)} different from {labels[0]} to {labels[-1]}; encode them with "
            "numpy.unique(y, return_inverse=True)[1], or make real targets float"
        )
    return y.astype(np.int64)


def _check_finite(name: str, x: NDArray[Any], y: NDArray[Any]) -> None:
    for what, values in (("x", x), ("y", y)):
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise ValueError(
                f"{name}: expected finite numbers, got {wrong} NaN or infinite of {values.size} "
                f"in {what}; drop those rows or fill them in"
            )


def _standardized(what: str, values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """(values - mean) / deviation over ``rows``; columns that are constant there become 0.

    A power of 2 scales each column first, exactly, so that no square of 1e300 overflows. Less its
    first row, a constant column is exactly 0; less its mean, a column of 0.1 would not be.
    """
    _, exponents = np.frexp(np.abs(values[rows]).max(0))
    with np.errstate(over="ignore"):  # in rows held out; ``Dataset.to`` looks
        scaled = np.ldexp(values, -exponents)
        scaled -= scaled[rows[0]]
        mean, deviation = scaled[rows].mean(0), scaled[rows].std(0)
        if not deviation.any():
            raise ValueError(
                f"expected {what} to vary over the {len(rows)} training rows, got the same in all "
                "of them; nothing can be learnt from it"
            )
        varies = deviation > 0
        return np.where(varies, (scaled - mean) / np.where(varies, deviation, 1.0), 0.0)
