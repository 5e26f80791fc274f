"""Files that are no data set: exit 2, one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparisons.cli import main

X, Y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3
HELD_OUT = np.random.default_rng(0).permutation(12)[:2]  # with --seed 0


def saved(save: Any = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """A zip with an x of this header; y is good."""
    magic = b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text))
    return zipped(x=magic + text.encode() + bytes(8 * 36), y=npy(Y))


def flipped(content: bytes, where: int) -> bytes:
    return content[:where] + bytes([content[where] ^ 8]) + content[where + 1 :]


def directory(content: bytes, offset: int, value: int) -> bytes:
    """The zip with a field of the first member set, in its own header and in the directory."""
    central = content.index(b"PK\x01\x02")
    for at in (offset, central + offset + 2):
        content = content[:at] + struct.pack("<H", value) + content[at + 2 :]
    return content


def put(array: Any, where: Any, value: Any) -> Any:
    array = array.copy()
    array[where] = value
    return array


GOOD, SMALL = saved(x=X, y=Y), saved(np.savez_compressed, x=X, y=Y)
NO_FILE, KIND, CLASSES = "to be a file of arrays x and y", "y of numbers", "class indices 0, 1, 2"
NO_ZIP, DAMAGED, ROWS = "File is not a zip file", "is damaged", "expected at least 3 rows"
FORM, FINITE = "'shape': (12, 3), 'fortran_order': False}", "expected finite numbers, got "
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NO_ZIP),
    "one byte": (b"P", NO_ZIP),
    "zeros": (bytes(1000), NO_ZIP),
    "text": (b"x,y\n1,2\n", NO_ZIP),
    "npy": (npy(X), NO_ZIP),
    "pickle": (pickle.dumps({"x": X, "y": Y}), NO_ZIP),
    "gzip": (gzip.compress(GOOD), NO_ZIP),
    "half": (GOOD[: len(GOOD) // 2], NO_ZIP),
    "last byte missing": (GOOD[:-1], NO_ZIP),
    "four bytes": (GOOD[:4], NO_ZIP),
    "beginning missing": (GOOD[50:], NO_FILE),
    "something in front": (b"#!/bin/sh\n" + GOOD, NO_FILE),
    "number flipped": (flipped(GOOD, GOOD.index(b"\n") + 20), DAMAGED),
    "compressed number flipped": (flipped(SMALL, 200), NO_FILE),
    "compressed header flipped": (flipped(SMALL, 60), NO_FILE),
    "name flipped": (flipped(GOOD, 30), NO_FILE),
    "length flipped": (flipped(SMALL, 29), "got: EOFError;"),
    "fewer columns": (GOOD.replace(b"(12, 3)", b"(12, 2)"), DAMAGED),
    "other dtype": (GOOD.replace(b"<f8", b"<f4"), DAMAGED),
    "encrypted": (directory(GOOD, 6, 1), "encrypted"),
    "unknown compression": (directory(GOOD, 8, 99), "compression method"),
    "version 9": (header("{'descr': '<f8', " + FORM, (9, 0)), NO_FILE),
    "no header": (header("{'descr': "), NO_FILE),
    "long header": (header("{'descr': '<f8', " + FORM + " " * 20_000), NO_FILE),
    "no such dtype": (header("{'descr': '<q9', " + FORM), NO_FILE),
    "10^15 rows": (header("{'descr': '<f8', " + FORM.replace("12", str(10**15))), NO_FILE),
    "negative rows": (header("{'descr': '<f8', " + FORM.replace("12", "-12")), NO_FILE),
    "x of text": (zipped(x=b"1, 2, 3", y=npy(Y)), KIND),
    "x of nothing": (zipped(x=b"", y=npy(Y)), KIND),
    "a zip in it": (zipped(x=GOOD, y=npy(Y)), KIND),
    "empty zip": (zipped(), "x is not a file in the archive"),
    "no y": (saved(x=X), "y is not a file in the archive"),
    "no x": (saved(y=Y), "x is not a file in the archive"),
    "capitals": (saved(X=X, Y=Y), "numpy.savez(file, x=x, y=y)"),
    "sparse": (saved(data=X, indices=Y, indptr=Y, shape=(12, 3)), NO_FILE),
}
ARRAYS: dict[str, tuple[Any, Any, str]] = {
    "x 0-d": (np.array(1.0), Y, "expected x (N, features)"),
    "x 1-d": (X[:, 0], Y, "expected x (N, features)"),
    "x 3-d": (X[..., None], Y, "got x (12, 3, 1) float64"),
    "no rows": (X[:0], Y[:0], "is the data set empty"),
    "no features": (X[:, :0], Y, ROWS),
    "one row": (X[:1], Y[:1], ROWS),
    "two rows": (X[:2], Y[:2], ROWS),
    "y 0-d": (X, np.array(1), "one target per row"),
    "real y 0-d": (X, np.array(1.0), "one target per row"),
    "y without rows": (X, Y[:0], "got (0,) int64"),
    "y without columns": (X, X[:, :0], "got (12, 0) float64"),
    "y without columns, whole": (X, Y[:, None][:, :0], "one target per row"),
    "y short": (X, Y[:-1], "one target per row"),
    "y long": (X[:-1], Y, "one target per row"),
    "labels in a column": (X, Y[:, None], "class indices (12,)"),
    "one-hot": (X, np.eye(3, dtype=int)[Y], "got (12, 3) int64"),
    "y transposed": (X, X.T, "got (3, 12) float64"),
    "y 3-d": (X, X[..., None], "one target per row"),
    "x objects": (X.astype(object), Y, "Object arrays cannot be loaded"),
    "y objects": (X, Y.astype(object), "Object arrays cannot be loaded"),
    "rows of two lengths": (np.array([[1], [1, 2]], object), Y[:2], "Object arrays"),
    "x words": (X.astype(str), Y, KIND),
    "y words": (X, np.array(list("abcabcabcabc")), "encode them first"),
    "y bytes": (X, np.array(list("abcabcabcabc"), "S1"), KIND),
    "x bool": (X > 0, Y, KIND),
    "y bool": (X, Y > 0, KIND),
    "x complex": (X + 1j, Y, "complex128"),
    "y complex": (X, Y + 1j, KIND),
    "x dates": (X.astype("datetime64[s]"), Y, KIND),
    "y durations": (X, Y.astype("timedelta64[s]"), KIND),
    "x records": (np.zeros((12, 3), [("a", float)]), Y, KIND),
    "y void": (X, np.zeros(12, "V8"), KIND),
    "x NaN": (put(X, (3, 1), np.nan), Y, FINITE + "1 NaN or infinite of 36 in x"),
    "x all NaN": (X * np.nan, Y, FINITE + "36 NaN"),
    "x infinite": (put(X, (0, 0), np.inf), Y, FINITE + "1 NaN or infinite of 36 in x"),
    "float16 x NaN": (put(X.astype(np.float16), 1, np.nan), Y, FINITE + "3 NaN"),
    "y NaN": (X, put(X[:, 0], 2, np.nan), FINITE + "1 NaN or infinite of 12 in y"),
    "y infinite": (X, put(X, (2, 2), -np.inf), FINITE + "1 NaN or infinite of 36 in y"),
    "beyond float64": (X, np.full(12, 10, np.longdouble) ** 400, FINITE + "12 NaN"),
    "negative label": (X, Y - 1, CLASSES),
    "labels from 1": (X, Y + 1, "got 3 different from 1 to 3; encode them with numpy.unique"),
    "a label missing": (X, np.where(Y == 1, 3, Y), CLASSES),
    "250001": (X, np.where(Y == 1, 250_001, 1), "got 2 different from 1 to 250001"),
    "10^12": (X, Y * 10**12, CLASSES),
    "least int64": (X, put(Y, 0, -(2**63)), CLASSES),
    "largest uint64": (X, put(Y.astype(np.uint64), 0, 2**64 - 1), CLASSES),
    "one class": (X, Y * 0, "got 1 different from 0 to 0"),
    "x constant": (np.full((12, 3), 0.1), Y, "to vary over the 10 training rows"),
    "x constant in training": (put(X * 0, HELD_OUT, 1.0), Y, "expected x of "),
    "y constant": (X, np.full(12, 0.1), "expected y of "),
    "float32 overflows": (put(X, HELD_OUT[0], 1e300), Y, "got 3 beyond it; drop the outliers"),
    "float64 overflows": (put(X * 1e-300, HELD_OUT[0], 1e300), Y, "got 3 beyond it"),
    "y overflows": (X, put(X, (HELD_OUT[1], 2), 1e300), "in the range of torch.float32, got 1"),
}
FILES |= {name: (saved(x=x, y=y), message) for name, (x, y, message) in ARRAYS.items()}


def refused(path: str, where: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of a run that left nothing behind."""
    assert main(["training", "--dataset", path, "--log-dir", str(where / "runs")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith("\n")
    assert err[:-1].isprintable() and len(err) < len(path) + 400
    assert not (where / "runs").exists()
    return err


@pytest.mark.parametrize("name", FILES)
def test_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = FILES[name]
    (tmp_path / "own.npz").write_bytes(content)
    assert message in refused(str(tmp_path / "own.npz"), tmp_path, capsys)


def test_names_of_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "nowhere.npz").symlink_to("nothing")
    (tmp_path / "circle.npz").symlink_to("circle.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("folder", "nowhere", "circle", "pipe", "missing", "x" * 300):
        assert "found no " in refused(str(tmp_path / f"{name}.npz"), tmp_path, capsys)
    for name in ("two\nlines", "\udcff", "\x1b[31m"):
        (tmp_path / f"{name}.npz").write_bytes(GOOD)
        assert "a printable name" in refused(str(tmp_path / f"{name}.npz"), tmp_path, capsys)


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """Some fields of a zip, such as dates, say nothing of the arrays."""
    from comparisons.training import data

    path = tmp_path / "own.npz"
    path.write_bytes(GOOD)
    good, kept = data.load(str(path), 0), 0
    for where in range(0, len(GOOD), 3):
        path.write_bytes(flipped(GOOD, where))
        try:
            found = data.load(str(path), 0)
        except ValueError:
            continue
        kept += 1
        assert found.x.equal(good.x) and found.y.equal(good.y)
    assert kept < len(GOOD) // 3 / 4
