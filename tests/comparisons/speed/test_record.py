"""The record: everything is in it and comes back, that of earlier versions too."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from comparisons.output import json_text
from comparisons.speed import record, tables
from comparisons.speed.arms.arm import AUTOGRAD, EXACT
from comparisons.speed.floor import Rates
from comparisons.speed.results import Result
from comparisons.speed.workloads import INPUT_GRADIENT, Workload
from tests.comparisons.speed.test_results import RESULT, ROW

EIKONAL = Workload(INPUT_GRADIENT, (2, 32, 32, 32, 1), 128, "tanh")
RECORDS = sorted((Path(__file__).parents[3] / "comparisons/results").glob("*/speed.json"))


def test_the_record_comes_back() -> None:
    second = Result("second-order", EIKONAL, {AUTOGRAD: [1.0], EXACT: [2.0]}, {})
    written = record.record(
        [RESULT, second], {"threads": 2}, Rates({"float32": 1e11}, 2e10), ["a note"]
    )
    back = json.loads(json_text(written))
    assert record.from_record(back) == [RESULT, second] and back == written
    arm = back["cells"][0]["arms"][EXACT]
    assert arm["median"] == 0.001 and arm["quartiles"] == [0.001, 0.012]
    assert arm["autograd_over_this"] == {"median": 2.0, "spread": 1.75}
    assert (arm["over_floor"], arm["peak_bytes"]) == (2.0, 1_500_000)
    assert back["cells"][1]["compile_over_ours"] is None


def test_a_record_that_differs_is_noticed() -> None:
    written = record.record([RESULT], {}, None, [])
    written["cells"][0]["arms"][EXACT]["seconds"][0] *= 2
    assert record.from_record(written) != [RESULT]


def test_nan_is_no_json() -> None:
    broken = Result("rows", ROW, {AUTOGRAD: [math.nan]}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text(record.record([broken], {}, None, []))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_records_of_one_floor_are_read(path: Path) -> None:
    """Those in the repository; their floor is of the products."""
    written = record.read(path)
    results = record.from_record(written)
    assert results and tables.page(written, results).startswith("# Speed on AMD EPYC")
    for cell, read in zip(written["cells"], results, strict=True):
        assert read.floor == cell["floor_seconds"]
        over = {name: arm["over_floor"] for name, arm in cell["arms"].items()}
        assert {name: read.over_floor(name) for name in over} == over
