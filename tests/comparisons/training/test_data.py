"""Real data: real, split, standardized, seeded; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comparisons.training import data


@pytest.mark.parametrize(
    ("name", "rows", "features", "outputs"), [("digits", 1797, 64, 10), ("diabetes", 442, 10, 1)]
)
def test_real_data(name: str, rows: int, features: int, outputs: int) -> None:
    d = data.load(name, seed=0)
    assert len(d.x) + len(d.validation_x) == rows and d.x.shape[1] == features
    assert d.outputs == outputs and d.classification == (name == "digits")
    assert d.validation_x.shape[0] == round(0.2 * rows)
    mean, deviation = d.x.mean(0), d.x.std(0, correction=0)
    assert mean.abs().max() < 1e-12  # rounding of a mean of fp64 numbers of size 1
    assert ((deviation - 1).abs() < 1e-12).logical_or(deviation == 0).all()
    if not d.classification:  # by the training rows alone
        assert d.y.mean().abs() < 1e-12 and (d.y.std(correction=0) - 1).abs() < 1e-12


def test_the_split_has_every_row_once() -> None:
    from sklearn.datasets import load_digits

    d = data.load("digits", seed=3)
    counts = torch.bincount(d.y, minlength=10) + torch.bincount(d.validation_y, minlength=10)
    assert counts.tolist() == np.bincount(load_digits().target).tolist()


def test_a_seed_fixes_everything() -> None:
    one, two, other = (data.load("diabetes", seed=s) for s in (1, 1, 2))
    assert torch.equal(one.x, two.x) and not torch.equal(one.x, other.x)
    streams = [[x for x, _ in data.batches(one, 32, 2, seed=s)] for s in (1, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(*streams[:2], strict=True))
    assert not torch.equal(streams[0][0], streams[2][0])


def test_batches_take_every_row_once_per_epoch() -> None:
    d = data.load("diabetes", seed=0)
    stream = list(data.batches(d, 100, 2, seed=0))
    assert [len(x) for x, _ in stream] == [100, 100, 100, 54] * 2
    epoch = torch.cat([x for x, _ in stream[:4]])
    assert torch.equal(epoch.sort(0).values, d.x.sort(0).values)
    assert not torch.equal(epoch, torch.cat([x for x, _ in stream[4:]]))


def save(path: Path, x: Any, y: Any) -> str:
    np.savez(path / "own.npz", x=x, y=y)
    return str(path / "own.npz")


def test_own_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    d = data.load(save(tmp_path, x, np.arange(20, dtype=np.int32) % 4), 0)
    assert d.name == "own" and d.outputs == 4 and d.y.dtype is torch.int64
    d = data.load(save(tmp_path, x, x[:, :2]), 0).to(torch.device("cpu"), torch.float32)
    assert d.outputs == 2 and d.y.shape == (16, 2) and d.x.dtype is d.y.dtype is torch.float32


X = np.ones((4, 3))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((0, 3)), np.ones(0), "is the data set empty"),
        (np.ones((1, 3)), np.ones(1), "at least 2 rows"),
        (np.where(np.eye(4, 3) > 0, np.nan, 1.0), np.ones(4), "got 3 NaN or infinite of 12 in x"),
        (X, np.array([1, np.inf, 0, 0]), "got 1 NaN or infinite of 4 in y"),
        (np.ones(4), np.ones(4), r"expected x \(N, features\)"),
        (X, np.ones(3), "one target per row"),
        (X, np.array([0, -1, 1, 0]), "class indices"),
        (X, np.array(["a", "b", "a", "b"]), "encode them first"),
    ],
    ids=["empty", "one row", "nan", "inf", "flat", "short", "negative", "words"],
)
def test_refused(tmp_path: Path, x: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(save(tmp_path, x, y), 0)


def test_no_such_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", inputs=X)
    with pytest.raises(ValueError, match=r"numpy\.savez\(file, x=x, y=y\)"):
        data.load(str(tmp_path / "own.npz"), 0)
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match="to be a file of arrays x and y"):
        data.load(str(tmp_path / "text.npz"), 0)
