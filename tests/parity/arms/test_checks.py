"""What callers pass is refused in words: what was expected, what was got, what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from manualbp.parity import assert_gradients_match, compare_gradients, compare_training
from manualbp.parity.arms.checks import SEEDS, check_dtype, check_loss, check_seeds, check_whole
from manualbp.parity.reports.json_format import from_json, to_json
from manualbp.parity.reports.page import verdict_sentence

X, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), torch.ones(4, 2)
SPARSE = X.to_sparse()
NESTED = torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged)

REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: check_whole("steps", 1.5, 1), TypeError, "steps to be a whole number, got 1.5"),
    (lambda: check_whole("steps", True, 1), TypeError, "steps to be a whole number, got True"),
    (lambda: check_whole("steps", 0, 1), ValueError, "steps to be at least 1, got 0"),
    (lambda: check_seeds(3), TypeError, r"got 3; pass \(3,\), or range\(3\) for as many"),
    (lambda: check_seeds("01"), TypeError, "several whole numbers, got '01'"),
    (lambda: check_seeds(()), ValueError, "at least one seed, got none"),
    (lambda: check_seeds((0, -1)), ValueError, "the seeds to be at least 0, got -1"),
    (lambda: check_seeds((0, 0.5)), TypeError, "the seeds to be a whole number, got 0.5"),
    (lambda: check_seeds((2**32,)), ValueError, r"below 2\*\*32, got 4294967296"),
    (lambda: check_dtype("dtype", "float64"), TypeError, "got 'float64'; pass torch.float64"),
    (lambda: check_dtype("dtype", float), TypeError, "got <class 'float'>; pass one, such as"),
    (lambda: check_dtype("dtype", torch.int32), ValueError, "got dtype=torch.int32"),
    (lambda: check_loss("loss", "mse"), TypeError, r"got 'mse'; pass one, such as torch.nn.MSEL"),
    (lambda: check_loss("loss", nn.MSELoss), TypeError, r"call it first: MSELoss\(\)"),
    (lambda: check_loss("loss", torch.autograd.Function), TypeError, "pass Function.apply"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), REFUSED, ids=[w for *_, w in REFUSED])
def test_refused(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_what_is_right_is_taken() -> None:
    assert check_whole("steps", np.int64(3), 1) == 3
    assert check_seeds(range(3)) == check_seeds(np.arange(3)) == (0, 1, 2)
    assert check_seeds([SEEDS - 1]) == (SEEDS - 1,)
    assert check_dtype("dtype", torch.bfloat16) is torch.bfloat16
    assert check_loss("loss", torch.nn.functional.mse_loss) is torch.nn.functional.mse_loss


GRADIENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"loss": "mse"}, TypeError, "expected loss to be a function"),
    ({"loss": nn.MSELoss(), "candidate_loss": "mse"}, TypeError, "expected candidate_loss to be"),
    ({"target": Y}, ValueError, "expected a loss with target, got none"),
    ({"candidate_loss": nn.MSELoss()}, ValueError, "expected a loss with candidate_loss"),
    ({"dtype": "float64"}, TypeError, "pass torch.float64"),
    ({"seeds": 3}, TypeError, "pass (3,)"),
    ({"seeds": (-1,)}, ValueError, "at least 0, got -1"),
    ({"inputs": SPARSE}, TypeError, "expected dense tensors, got input of layout torch.sparse_coo"),
    ({"inputs": NESTED}, TypeError, "got input nested"),
    ({"inputs": X.to("meta")}, TypeError, "got input on the meta device"),
    ({"repro": "."}, OSError, "Is a directory; nothing was changed; give a file"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "words"), GRADIENTS, ids=[w for *_, w in GRADIENTS])
def test_compare_gradients_refuses(
    options: dict[str, Any], error: type[Exception], words: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing is written, and no module is changed."""
    monkeypatch.chdir(tmp_path)
    reference = nn.Linear(3, 2)
    candidate, before = copy.deepcopy(reference), copy.deepcopy(reference.state_dict())
    for compare in (compare_gradients, assert_gradients_match):
        with pytest.raises(error) as raised:
            compare(candidate, reference, **{"inputs": X, **options})
        assert words in str(raised.value)
    assert not list(tmp_path.iterdir())
    for module in (candidate, reference):
        assert all(torch.equal(v, before[name]) for name, v in module.state_dict().items())


TRAINING: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"loss": None}, TypeError, "expected loss to be a function of (output, target), got None"),
    ({"loss": "mse"}, TypeError, "got 'mse'"),
    ({"loss": nn.MSELoss}, TypeError, "call it first"),
    ({"candidate_loss": 3}, TypeError, "expected candidate_loss to be a function"),
    ({"steps": 1.5}, TypeError, "expected steps to be a whole number, got 1.5"),
    ({"twins": 3.5}, TypeError, "expected twins to be a whole number"),
    ({"seeds": 3}, TypeError, "pass (3,)"),
    ({"seeds": (-3,)}, ValueError, "at least 0, got -3"),
    ({"dtypes": "float64"}, TypeError, "got 'float64'; pass dtypes=(torch.float64,)"),
    ({"dtypes": torch.float64}, TypeError, "pass dtypes=(torch.float64,)"),
    ({"dtypes": ("float64",)}, TypeError, "pass torch.float64"),
    ({"dtypes": ()}, ValueError, "expected at least one dtype"),
    ({"optimizers": 3}, TypeError, "pass optimizers=('sgd',)"),
    ({"optimizers": {"mine": torch.optim.SGD([torch.ones(1)])}}, TypeError, "got SGD; pass lambda"),
    ({"data": [(SPARSE, Y)]}, TypeError, "got inputs of batch 1 of layout torch.sparse_coo"),
    ({"data": [(X, Y / torch.tensor([1.0, 0.0]))]}, ValueError, "got 4 infinite of 8"),
    ({"data": [(X[:0], Y[:0])]}, ValueError, "batch 1: expected at least one row"),
    ({"checkpoint": "."}, ValueError, "a folder, a pipe or a device; name another"),
    ({"checkpoint_every": 0.5}, TypeError, "expected checkpoint_every to be a whole number"),
    ({"checkpoint_seconds": -1}, ValueError, "checkpoint_seconds to be at least 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "words"), TRAINING, ids=[w for *_, w in TRAINING])
def test_compare_training_refuses(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    reference = nn.Linear(3, 2)
    candidate, before = copy.deepcopy(reference), copy.deepcopy(reference.state_dict())
    given = {"data": [(X, Y)], "loss": nn.MSELoss(), "steps": 2, **options}
    with pytest.raises(error) as raised:
        compare_training(candidate, reference, **given)
    assert words in str(raised.value)
    for module in (candidate, reference):
        assert all(torch.equal(v, before[name]) for name, v in module.state_dict().items())


def test_what_is_nan_already_is_said() -> None:
    """The inputs or the parameters, and how many; where no number depends on it, nothing is."""
    holed, reference = X.clone(), nn.Linear(3, 2)
    holed[0] = torch.nan
    report = compare_gradients(copy.deepcopy(reference), reference, holed, seeds=(0,))
    assert report.verdict == "NOT JUDGED"
    assert all(t.reason.endswith("; input has 3 NaN") for t in report.unjudged)
    filled = compare_gradients(lambda x: x.nan_to_num() * 2, lambda x: x.nan_to_num() * 2, holed)
    assert filled.agrees
    with torch.no_grad():
        reference.bias[0] = torch.nan
    report = compare_gradients(copy.deepcopy(reference), reference, X, seeds=(0,))
    assert report.unjudged[0].reason.endswith("; bias has 1 NaN")


def test_inputs_without_a_row_judge_nothing() -> None:
    """Said of every tensor, with and without power; what differs before any number still does."""
    words = "the inputs have no row (input (0, 3)), so nothing can be judged; pass some with rows"
    reference = nn.Linear(3, 2)
    for power in (True, False):
        report = compare_gradients(copy.deepcopy(reference), reference, X[:0], power=power)
        assert report.verdict == "NOT JUDGED" and {t.reason for t in report.tensors} == {words}
        assert words in verdict_sentence(report)
    assert compare_gradients(lambda x: x.t(), lambda x: x, X[:0]).verdict == "DIFFER"
    assert compare_gradients(torch.add, torch.add, (X, X[:1, :0].sum(1))).agrees  # one has rows


def test_numpys_numbers_are_written_as_plain_ones() -> None:
    reference = nn.Linear(3, 2)
    report = compare_training(
        copy.deepcopy(reference), reference, [(X, Y)], nn.MSELoss(), "sgd", np.int64(2),
        np.arange(2), dtypes=(torch.float32,),
    )  # fmt: skip
    assert from_json(to_json(report)) == report
