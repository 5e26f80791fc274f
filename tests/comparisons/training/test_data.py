"""Real data: real, split, standardized, seeded; and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comparisons.training import command, data
from manualbp.parity.cli.options import Parser


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


def test_every_row_keeps_its_target(tmp_path: Path) -> None:
    """And is there once. Standardized, a column that counts the rows still orders them."""
    number = np.arange(30.0)
    d = data.load(save(tmp_path, number[:, None], number), seed=5)
    assert d.x.equal(d.y) and d.validation_x.equal(d.validation_y)
    assert torch.cat([d.x, d.validation_x]).unique().numel() == 30
    order = torch.cat([d.x, d.validation_x]).flatten().argsort().argsort()
    assert not order[:24].equal(order[:24].sort().values)


G = np.random.default_rng(0)
NOISE = G.normal(size=(40, 2))
COLUMNS: dict[str, Any] = {
    "uint8 pixels": G.integers(0, 256, 40, np.uint8),
    "float16 pixels": G.integers(0, 256, 40).astype(np.float16),  # their squares are infinite
    "float32 time stamps": np.float32(1.7e9) + 128 * G.integers(0, 9, 40).astype(np.float32),
    "int64 time stamps": 1_700_000_000_000_000_000 + G.integers(0, 10**12, 40),
    "large": 1e300 * G.normal(size=40),
    "the largest": np.where(G.normal(size=40) > 0, 1.7e308, -1.7e308),
    "small": 1e-300 * G.normal(size=40),
    "subnormal": 5e-324 * G.integers(0, 9, 40),
    "one ulp": np.where(G.normal(size=40) > 0, 0.1, np.nextafter(0.1, 1)),
    "an outlier": np.where(np.arange(40) == 7, 1e12, G.normal(size=40)),
    "other byte order": G.normal(size=40).astype(">f8"),
    "longdouble": G.normal(size=40).astype(np.longdouble),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_standardized_as_rational_numbers_are(name: str, tmp_path: Path) -> None:
    """To float64 rounding of values of size 1; x and real targets alike."""
    column = COLUMNS[name]
    d = data.load(save(tmp_path, column[:, None], NOISE[:, 0]), seed=1)
    order = np.random.default_rng(1).permutation(40)
    exact = [Fraction(float(value)) for value in column[order]]
    mean = sum(exact[8:]) / 32
    variance = sum((value - mean) ** 2 for value in exact[8:]) / 32
    squares = [((value - mean) ** 2 / variance, value > mean) for value in exact]
    wanted = [float(square) ** 0.5 * (1 if above else -1) for square, above in squares]
    found = torch.cat([d.validation_x, d.x]).flatten()
    torch.testing.assert_close(
        found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    if column.dtype.kind == "f":
        y = data.load(save(tmp_path, NOISE[:, :1], column), seed=1)
        assert torch.cat([y.validation_y, y.y]).flatten().equal(found)


def test_pixels_in_float16_are_those_in_float64(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    half, double = (data.load(save(tmp_path, x.astype(t), y), 0) for t in (np.float16, float))
    assert half.x.equal(double.x) and half.x.abs().max() > 1


@pytest.mark.parametrize("value", [0.0, 0.1, -0.3, 1e300, 1e-320, 1.7e9])
def test_columns_that_are_constant_in_training_become_0(value: float, tmp_path: Path) -> None:
    """Also the mean of forty 0.1 is not 0.1; and what is held out may differ there."""
    held_out = np.random.default_rng(1).permutation(40)[:8]
    x = np.stack([np.full(40, value), np.full(40, value), NOISE[:, 0]], axis=1)
    x[held_out[0], 1] = 1e300
    d = data.load(save(tmp_path, x, x), seed=1)
    for values in (d.x, d.validation_x, d.y, d.validation_y):
        assert values[:, :2].eq(0).all() and values[:, 2].ne(0).all()


def test_by_training_rows_alone(tmp_path: Path) -> None:
    """What is held out has no say, neither in inputs nor in targets."""
    held_out = np.random.default_rng(1).permutation(40)[:8]
    x, other = NOISE, NOISE.copy()
    other[held_out] += 100
    one, two = (data.load(save(tmp_path, values, values), seed=1) for values in (x, other))
    assert one.x.equal(two.x) and one.y.equal(two.y)
    assert (two.validation_x - one.validation_x).min() > 10


def test_names_of_runs(tmp_path: Path) -> None:
    """Of whatever a file is called: short, without what a folder cannot be called."""
    for stem, wanted in {
        "my data (2).v1": "my-data-2-v1", "x" * 250: "x" * 40, "": "npz", "-é": "é",
    }.items():  # fmt: skip
        parser = Parser()
        command.add_arguments(parser)
        path = tmp_path / f"{stem}.npz"
        np.savez(path, x=NOISE, y=np.arange(40) % 2)
        args = parser.parse_args(["--dataset", str(path)])
        command.complete(args, data.load(args.dataset, 0))
        assert args.run_name.startswith(f"{wanted}-sgd-20")
