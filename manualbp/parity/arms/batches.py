"""The batches of a training, in order; where they run out, from the start again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import named, seed_all
from manualbp.parity.arms.checks import check_tensor

Batch = tuple[Any, Any]


def step_seed(seed: int, step: int) -> int:
    """The seed of a step: the same in every arm, whatever was drawn before."""
    return (seed * 1_000_003 + step) % 2**62


class Batches:
    """Iterates (inputs, target), epoch after epoch, from ``data`` or ``data(seed)``.

    ``data`` is read anew in each epoch. What it draws at random depends on the seed and the
    position alone, so every reading gives the same batches.

    Raises:
        ValueError: it is empty, can be read only once, or a batch is not finite or has no row.
        TypeError: a batch is no pair.
    """

    def __init__(self, data: Any, seed: int) -> None:
        self._data, self._seed = data, seed
        if isinstance(data, Sequence):  # in memory already: refused before any step
            for number, batch in enumerate(data, start=1):
                check_batch(number, batch)

    def __iter__(self) -> Iterator[Batch]:
        number, epoch = 0, 0
        while True:
            epoch, before = epoch + 1, number
            batches = self._open(epoch)
            while (batch := self._next(batches, number)) is not None:
                number += 1
                check_batch(number, batch)
                yield batch[0], batch[1]
            if number == before:
                raise ValueError("expected at least one batch, got none; is the data set empty?")

    def skip(self, count: int) -> Iterator[Batch]:
        """The batches after the first ``count``."""
        batches = iter(self)
        for _ in range(count):
            next(batches)
        return batches

    def first_hash(self) -> str:
        """SHA-256 of the first batch."""
        digest = hashlib.sha256()
        for name, value in named(next(iter(self)), pytree.keystr).items():
            digest.update(name.encode())
            digest.update(tensor_hash(value).encode())
        return digest.hexdigest()

    def _open(self, epoch: int) -> Iterator[Any]:
        seed_all(step_seed(self._seed, -epoch))
        data = self._data(self._seed) if callable(self._data) else self._data
        if not isinstance(data, Iterable):
            raise TypeError(
                f"expected data to be batches of (inputs, target), or a function of the seed that "
                f"makes them, got {type(data).__name__}"
            )
        batches = iter(data)
        if batches is data and not callable(self._data):
            raise ValueError(
                f"expected batches that can be read again, got a {type(data).__name__}, which can "
                "be read once; pass a list, or a function of the seed that makes them"
            )
        return batches

    def _next(self, batches: Iterator[Any], number: int) -> Any:
        seed_all(step_seed(self._seed, number))  # for augmentations and shuffles
        return next(batches, None)


def check_batch(number: int, batch: Any) -> None:
    """A pair of inputs and target, each finite and with a row.

    Raises:
        ValueError: a NaN, an infinity, or no row.
        TypeError: no pair, or a tensor of a kind that check_tensor refuses.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"batch {number}: expected a pair (inputs, target), got {type(batch).__name__}"
        )
    for what, part in zip(("inputs", "targets"), batch, strict=True):
        for name, value in named(part, pytree.keystr).items():
            check_tensor(f"{what}{name} of batch {number}", value)
            if value.numel() == 0:
                raise ValueError(f"batch {number}: expected at least one row in the {what}, got 0")
            wrong = not_finite(value)
            if wrong:
                raise ValueError(
                    f"batch {number}: expected finite {what}, got {wrong} of {value.numel()}; "
                    "drop or fill them first"
                )


def not_finite(values: Tensor) -> str:
    """``3 NaN and 1 infinite``; empty where every number is finite."""
    counts = {"NaN": int(values.isnan().sum()), "infinite": int(values.isinf().sum())}
    return " and ".join(f"{count} {what}" for what, count in counts.items() if count)


def rows(batch: Batch) -> int:
    """N, the length of the first tensor with a dimension."""
    return next((len(v) for v in named(batch, pytree.keystr).values() if v.dim()), 1)


def tensor_hash(values: Tensor) -> str:
    """SHA-256 of shape, dtype and bits."""
    flat = values.detach().to_dense().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tuple(values.shape)} {values.dtype}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
