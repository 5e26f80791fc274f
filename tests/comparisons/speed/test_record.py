"""The record: medians, spreads and the machine, a line for each cell; damaged ones are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comparisons.cli import main
from comparisons.speed import record
from comparisons.speed.arms.arm import AUTOGRAD, EXACT
from comparisons.speed.floor import Rates
from comparisons.speed.results import Result, measured_arms
from comparisons.speed.workloads import INPUT_GRADIENT, Workload
from tests.comparisons.speed.test_results import RESULT, ROW

EIKONAL = Workload(INPUT_GRADIENT, (2, 32, 32, 32, 1), 128, "tanh")
SECOND = Result("second-order", EIKONAL, measured_arms({AUTOGRAD: [1.0], EXACT: [2.0]}, {}))
WHERE = {"processor": "a", "device": "cpu", "threads": 2, "cores": 2, "python": "3", "date": "d"}
RECORDS = sorted((Path(__file__).parents[3] / "comparisons/results").rglob("speed.json"))


def written(*results: Result) -> dict[str, Any]:
    return record.record(results, WHERE, Rates({"float32": 1e11}, 2e10), ["a note"], ["an arm"])


def test_the_record_comes_back() -> None:
    busy = replace(RESULT, part="busy", workload=replace(ROW, beside=4))
    results = [RESULT, SECOND, busy]
    back = json.loads(record.json_text(written(*results)))
    read = record.from_record(back)
    assert read[1] == SECOND and [r.workload for r in read] == [r.workload for r in results]
    assert read[0].arms[EXACT] == RESULT.arms[EXACT] and read[0].floors == RESULT.floors
    assert back == written(*results) == written(*read)
    assert back["cells"][0]["arms"][EXACT] == [1.0, 2.0, 1.75, 1.5]
    assert back["cells"][1]["arms"][EXACT] == [2000.0, 0.5, 0.0, None]
    assert back["cells"][0]["floors"] == {"products": 0.5, "bytes": 0.1}
    assert (back["GFLOP_per_second"], back["differing"]) == ({"float32": 100.0}, ["an arm"])


def test_a_record_that_differs_is_noticed() -> None:
    changed = written(RESULT)
    changed["cells"][0]["arms"][EXACT][0] *= 2
    assert written(*record.from_record(changed)) != written(RESULT)


def test_a_cell_is_a_line() -> None:
    one, two = (record.json_text(written(*[RESULT] * count)).splitlines() for count in (1, 2))
    assert len(two) == len(one) + 1 and max(map(len, one)) < 500
    assert sum('"widths": [64, 128, 128, 128, 1]' in line for line in two) == 2


def test_four_digits_are_kept() -> None:
    arms = measured_arms({AUTOGRAD: [0.00123456]}, {AUTOGRAD: 1_234_567})
    (cell,) = written(Result("rows", ROW, arms))["cells"]
    assert cell["arms"][AUTOGRAD] == [1.235, 1.0, 0.0, 1.235]


def test_nan_is_no_json() -> None:
    broken = Result("rows", ROW, measured_arms({AUTOGRAD: [math.nan]}, {}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.json_text(written(broken))


DAMAGED: dict[str, Any] = {
    "cut off": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "speed",
    "another kind": lambda text: "[]",
    "no machine": lambda text: text.replace('"machine"', '"place"'),
    "no rates": lambda text: text.replace('"GFLOP_per_second"', '"rates"'),
    "no differing": lambda text: text.replace('"differing"', '"wrong"'),
    "a list too short": lambda text: text.replace("[1.0, 2.0, 1.75, 1.5]", "[1.0]"),
    "a word for a number": lambda text: text.replace("[1.0, 2.0, 1.75, 1.5]", '["a", 2, 1, 1]'),
    "a time of zero": lambda text: text.replace("[1.0, 2.0, 1.75, 1.5]", "[0, 0, 0, 0]"),
    "an arm of another version": lambda text: text.replace('"exact"', '"one pass"'),
    "no autograd": lambda text: text.replace('"autograd": [', '"JAX": ['),
    "widths of words": lambda text: text.replace("[64, 128, 128, 128, 1]", '["a"]'),
    "a batch of words": lambda text: text.replace("65536", '"many"'),
    "a negative time": lambda text: text.replace("[1.0, 2.0, 1.75, 1.5]", "[-1, 2, 1, 1]"),
    "a time beyond all": lambda text: text.replace("[1.0, 2.0, 1.75, 1.5]", "[1e308, 2, 1, 1]"),
    "NaN": lambda text: text.replace("[1.0, 2.0, 1.75, 1.5]", "[1, 2, NaN, 1]"),
    "an infinite rate": lambda text: text.replace('"float32": 100.0', '"float32": 1e999'),
    "another part": lambda text: text.replace('"rows"', '"lines"'),
    "another dtype": lambda text: text.replace('"dtype": "float32"', '"dtype": "float7"'),
    "another floor": lambda text: text.replace('"products"', '"ground"'),
    "a device that is a number": lambda text: text.replace('"device": "cpu"', '"device": 3.5'),
    "deep lists": lambda text: "[" * 100_000,
    "bytes that are no text": lambda text: b"\xff\xfe\x00",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_one_line(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    text = record.json_text(written(RESULT))
    damaged = DAMAGED[damage](text)
    assert damaged != text
    Path("it.json").write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert main(["speed", "--read", "it.json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(
        "error: expected the speed.json of an earlier run, got 'it.json' ("
    )
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


def test_a_whole_record_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an arm that differed is still said, with the code that the run itself had."""
    monkeypatch.chdir(tmp_path)
    Path("it.json").write_text(record.json_text(written(RESULT)))
    assert main(["speed", "--read", "it.json", "--output", "again"]) == 1
    assert Path("again/speed.json").read_text() == Path("it.json").read_text()
    assert "DIFFERS, left out: an arm" in Path("again/speed.md").read_text()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_records_in_the_repository(path: Path) -> None:
    """They are read, they are short, and their page is made of them.

    scikit-learn's float32 sums over a long batch are too rough on some processors.
    """
    found = record.read(path)
    differing = [words for words in found["differing"] if "batch 131,072" in words]
    assert len(path.read_text().splitlines()) < 300 and found["differing"] == differing
    assert all(words.startswith("rows: scikit-learn of 32-64x4-3, ") for words in differing)
    page = record.page(found, record.from_record(found))
    assert (path.parent / record.MARKDOWN).read_text() == page
