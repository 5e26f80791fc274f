"""ATen's routines or kernels: the rule, and what happens where a kernel fails.

Without a GPU and without Triton: tensors and kernels are stand-ins.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manualbp.fast.gpu import choice, kernels
from manualbp.fast.gpu.choice import LEAST_ROWS, NARROW, Product

CUDA: Any = SimpleNamespace(is_cuda=True, device="cuda:0")
STEP = Product("forward", LEAST_ROWS, NARROW, NARROW, torch.float32)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was tried; devices answer at once, and no graph is captured."""
    monkeypatch.setattr(choice, "_works", {})
    monkeypatch.setattr(kernels, "takes", lambda x: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


class Arms:
    """Both ways; the names of those that were called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def run(self, step: Product, x: Any = CUDA) -> str:
        return choice.run(step, x, lambda: self._call("ATen"), lambda: self._call("kernel"))

    def _call(self, name: str) -> str:
        self.calls.append(name)
        return name


@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_the_rule(dtype: torch.dtype) -> None:
    """Of shape and dtype alone: narrow, and many rows."""
    step = STEP._replace(dtype=dtype)
    assert choice.prefers_kernel(step)
    assert choice.prefers_kernel(step._replace(rows=2**20, outputs=1, inputs=1, product="any"))
    for other in ({"rows": LEAST_ROWS - 1}, {"outputs": NARROW + 1}, {"inputs": NARROW + 1},
                  {"dtype": torch.float64}, {"dtype": torch.complex64}):  # fmt: skip
        assert not choice.prefers_kernel(step._replace(**other))


def test_the_rule_is_followed() -> None:
    """The kernel is tried once; then each call runs one of the two."""
    arms = Arms()
    assert [arms.run(STEP), arms.run(STEP)] == ["kernel"] * 2 and arms.calls == ["kernel"] * 3
    arms.calls.clear()
    assert arms.run(STEP._replace(rows=1)) == "ATen" and arms.calls == ["ATen"]


def test_no_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("perf_counter", "perf_counter_ns", "time", "monotonic"):
        monkeypatch.setattr(time, name, None)
    assert Arms().run(STEP) == "kernel" and Arms().run(STEP._replace(rows=1)) == "ATen"


def test_what_kernels_do_not_take_is_atens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "takes", lambda x: False)
    arms = Arms()
    assert arms.run(STEP) == "ATen" and arms.calls == ["ATen"]


def test_planted_other_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "prefers_kernel", lambda step: True)
    with pytest.raises(AssertionError):
        test_the_rule_is_followed()


@pytest.mark.parametrize(
    ("rows", "named"), [(0, 1), (1, 1), (2, 2), (3, 4), (1000, 1024), (1024, 1024), (1025, 2048)]
)
def test_rows_count_to_the_next_power_of_2(rows: int, named: int) -> None:
    step = Product("input gradient", rows, 3, 5, torch.bfloat16)
    assert str(step) == f"input gradient, {named} x 5 x 3, bfloat16"


def test_tf32_is_another_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    half = str(STEP._replace(dtype=torch.float16))
    monkeypatch.setattr(kernels, "tf32", lambda: True)
    assert str(STEP).endswith("tf32") and str(STEP._replace(dtype=torch.float16)) == half


def test_nothing_is_compiled_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor remembered; what ran before runs."""
    arms, new = Arms(), STEP._replace(rows=2**20)
    assert arms.run(STEP) == "kernel"
    arms.calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        patch.setattr(torch.cuda, "synchronize", None)
        assert [arms.run(new), arms.run(STEP)] == ["ATen", "kernel"] == arms.calls
    assert arms.run(new) == "kernel"


def raising(error: Exception) -> Callable[..., str]:
    def fail(*_: object) -> str:
        raise error

    return fail


@pytest.mark.parametrize("when", ["at once", "when waited for"])
def test_a_kernel_that_fails_is_atens_with_one_warning(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = raising(RuntimeError("out of resource: shared memory\nRequired: 300000"))
    kernel = fail if when == "at once" else lambda: "no"
    if when != "at once":
        monkeypatch.setattr(torch.cuda, "synchronize", fail)
    words = r"kernel for 'forward, .*' failed: RuntimeError: out of resource: shared memory; ATen's"
    with pytest.warns(UserWarning, match=words):
        assert choice.run(STEP, CUDA, lambda: "by ATen", kernel) == "by ATen"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choice.run(STEP, CUDA, lambda: "by ATen", kernel) == "by ATen"


def test_other_errors_are_seen() -> None:
    """ATen's own; and an interpreted kernel's, which is not tried."""
    fail = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        choice.run(STEP._replace(rows=1), CUDA, fail, lambda: "")
    with pytest.raises(ZeroDivisionError):
        choice.run(STEP, torch.zeros(1), lambda: "", fail)  # type: ignore[arg-type]
