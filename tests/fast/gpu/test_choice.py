"""ATen's routines or kernels: which is taken, and when that is measured.

Without a GPU and without Triton: clocks, tensors and kernels are stand-ins.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manualbp import fast
from manualbp.fast.cpu import routines
from manualbp.fast.gpu import choice, kernels
from manualbp.fast.gpu.choice import ALL, ATEN, TRITON, Product

CUDA: Any = SimpleNamespace(is_cuda=True, device="cuda:0")
WIDE = Product("forward", 1000, 512, 384, torch.float32)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known; devices answer at once, and no graph is captured."""
    for name in ("_pinned", "_measured", "_runs"):
        monkeypatch.setattr(choice, name, {})
    monkeypatch.setattr(routines, "_policy", dict.fromkeys(routines.KINDS, ATEN)
                        | dict.fromkeys(routines.GAINS, 1))  # fmt: skip
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


class Clock:
    """Goes on by what the routine called costs, the first call of each much more: it compiles."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now, self.calls, self.seconds = 0.0, list[str](), seconds
        monkeypatch.setattr(routines.time, "perf_counter", lambda: self.now)

    @property
    def runs(self) -> dict[str, Callable[[], str]]:
        return {name: lambda name=name: self._run(name) for name in choice.ROUTINES}  # type: ignore[misc]

    def _run(self, name: str) -> str:
        self.now += self.seconds[name] * (1 if name in self.calls else 1000)
        self.calls.append(name)
        return name


@pytest.mark.parametrize(
    ("triton", "taken"), [(0.5, TRITON), (0.94, TRITON), (0.96, ATEN), (1.0, ATEN), (2.0, ATEN)]
)
def test_the_faster_one_is_taken_and_stays(
    triton: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATen's within 5 %; measured once in the process, whatever the clock says afterwards."""
    clock = Clock(monkeypatch, ATen=1.0, Triton=triton)
    assert choice.run(WIDE, CUDA, clock.runs) == taken
    measured = len(clock.calls)
    clock.seconds = {ATEN: triton, TRITON: 1.0}
    assert choice.run(WIDE, CUDA, clock.runs) == taken and len(clock.calls) == measured + 1
    assert choice.policy() == {"cuda forward, 1024 x 384 x 512, float32": taken}


def test_both_take_turns_and_the_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = Clock(monkeypatch, ATen=1.0, Triton=1.0), list[int]()
    found = choice.fastest(clock.runs, lambda: waits.append(len(clock.calls)))
    turn = [ATEN] * choice.CALLS + [TRITON] * choice.CALLS
    assert found == ATEN and clock.calls == turn * (1 + choice.TURNS)
    starts = range(0, len(clock.calls), choice.CALLS)
    assert waits == [n for start in starts for n in (start, start + choice.CALLS)]


def test_planted_lack_of_turns_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one does not count."""
    monkeypatch.setattr(choice, "TURNS", 0)
    with pytest.raises(AssertionError):
        test_the_faster_one_is_taken_and_stays(0.5, TRITON, monkeypatch)


@pytest.mark.parametrize(
    ("rows", "named"), [(0, 1), (1, 1), (2, 2), (3, 4), (1000, 1024), (1024, 1024), (1025, 2048)]
)
def test_rows_count_to_the_next_power_of_2(rows: int, named: int) -> None:
    step = Product("input gradient", rows, 3, 5, torch.bfloat16)
    assert str(step) == f"cuda input gradient, {named} x 5 x 3, bfloat16"


def test_tf32_is_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    half = str(WIDE._replace(dtype=torch.float16))
    monkeypatch.setattr(kernels, "tf32", lambda: True)
    assert str(WIDE).endswith("tf32") and str(WIDE._replace(dtype=torch.float16)) == half


def test_nothing_is_measured_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor remembered; what was measured before is taken."""
    clock = Clock(monkeypatch, ATen=1.0, Triton=0.1)
    known = WIDE._replace(rows=1)
    assert choice.run(known, CUDA, clock.runs) == TRITON
    before = list(clock.calls)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        patch.setattr(torch.cuda, "synchronize", None)
        narrow = WIDE._replace(outputs=8, inputs=8)
        for step, taken in ((WIDE, ATEN), (narrow, ATEN), (known, TRITON)):
            assert choice.run(step, CUDA, clock.runs) == taken
    assert clock.calls == [*before, ATEN, ATEN, TRITON] and list(choice.policy()) == [str(known)]
    assert choice.run(WIDE, CUDA, clock.runs) == TRITON


def test_no_clock_decides_where_bits_are_to_repeat(
    deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that was read before; what was pinned is taken. Only that it runs is tried."""
    clock = Clock(monkeypatch, ATen=1.0, Triton=0.1)
    torch.use_deterministic_algorithms(False)
    assert choice.chosen(WIDE, CUDA, clock.runs) == TRITON
    torch.use_deterministic_algorithms(True)
    clock.calls.clear()
    narrow = WIDE._replace(outputs=choice.NARROW, inputs=choice.NARROW)
    for _ in range(2):
        assert choice.chosen(narrow, CUDA, clock.runs) == TRITON
        assert choice.chosen(WIDE, CUDA, clock.runs) == ATEN and clock.calls == [TRITON]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choice.chosen(narrow, CUDA, clock.runs) == TRITON
    assert choice.chosen(narrow._replace(rows=1), CUDA, clock.runs) == ATEN
    choice.pin({str(WIDE): TRITON, str(narrow): ATEN})
    assert choice.chosen(WIDE, CUDA, clock.runs) == TRITON
    assert choice.chosen(narrow, CUDA, clock.runs) == ATEN and clock.calls == [TRITON]


def raising(error: Exception) -> Callable[..., str]:
    def fail(*_: object) -> str:
        raise error

    return fail


def test_a_kernel_that_fails_is_atens_where_bits_are_to_repeat(deterministic: None) -> None:
    fail = raising(RuntimeError("out of resource"))
    narrow = WIDE._replace(outputs=8, inputs=8)
    with pytest.warns(UserWarning, match="out of resource; ATen's routine"):
        assert choice.run(narrow, CUDA, {ATEN: lambda: "a", TRITON: fail}) == "a"
    assert choice.run(narrow, CUDA, {ATEN: lambda: "a", TRITON: fail}) == "a"


@pytest.mark.parametrize("when", ["at once", "when waited for"])
def test_a_kernel_that_fails_is_atens_with_one_warning(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = raising(RuntimeError("out of resource: shared memory\nRequired: 300000"))
    runs: Any = {ATEN: lambda: "by ATen", TRITON: fail if when == "at once" else lambda: "no"}
    if when != "at once":
        monkeypatch.setattr(torch.cuda, "synchronize", fail)
    words = r"kernel for 'cuda forward, .*' failed: RuntimeError: out of resource: shared memory; A"
    with pytest.warns(UserWarning, match=words):
        assert choice.run(WIDE, CUDA, runs) == "by ATen"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choice.run(WIDE, CUDA, runs) == "by ATen"
    assert choice.policy() == {str(WIDE): ATEN}


def test_atens_own_errors_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is decided by them; so are those of a kernel that was asked for."""
    fail = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        choice.run(WIDE, CUDA, {ATEN: fail, TRITON: lambda: ""})
    assert choice.policy() == {}
    choice.pin({ALL: TRITON})
    with pytest.raises(ZeroDivisionError):
        choice.run(WIDE, CUDA, {ATEN: lambda: "", TRITON: fail})


@pytest.mark.parametrize(("name", "taken"), [("Triton", TRITON), ("ATen", ATEN), ("oneDNN", ATEN)])
def test_one_name_for_all(name: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, ATen=1.0, Triton=1.0)
    fast.pin(name)
    cpu: Any = SimpleNamespace(is_cuda=False)
    for x in (CUDA, cpu):  # a CPU's is where kernels are interpreted
        assert choice.chosen(WIDE, x, clock.runs) == taken
    assert clock.calls == [] and fast.policy()[ALL] == taken
    elsewhere = {fast.policy()[kind] for kind in routines.KINDS}
    assert elsewhere == {ATEN if name == "Triton" else name}


def test_on_a_cpu_nothing_is_measured() -> None:
    assert choice.chosen(WIDE, torch.zeros(1), {}) == ATEN and choice.policy() == {}


def test_policies_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another process, say; shapes that it does not know are measured."""
    clock = Clock(monkeypatch, ATen=1.0, Triton=0.1)
    choice.chosen(WIDE, CUDA, clock.runs)
    found = fast.policy()
    kinds = {*routines.KINDS, *routines.GAINS, str(WIDE)}
    assert found[str(WIDE)] == TRITON and set(found) == kinds
    fast.pin({**found, str(WIDE): ATEN})
    assert choice.chosen(WIDE, CUDA, clock.runs) == ATEN
    other = WIDE._replace(rows=1)
    assert choice.chosen(other, CUDA, clock.runs) == TRITON
    assert fast.policy() == {**found, str(WIDE): ATEN, str(other): TRITON}
    fast.pin(fast.policy())
    assert fast.policy() == {**found, str(WIDE): ATEN, str(other): TRITON}
    fast.pin(found)
    assert fast.policy() == found


def test_bad_pins_change_nothing() -> None:
    fast.pin("Triton")
    found = fast.policy()
    for bad in (
        {**found, "cuda": "oneDNN"}, {**found, "cuda": 1}, {**found, str(WIDE): "triton"},
        {**found, "forward, wide": "Triton"}, {"cuda": "ATen"}, {**found, 1: "ATen"}, "triton",
        {**found, "cudnn forward": "ATen"}, {**found, "cuda:0": "ATen"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            fast.pin(bad)  # type: ignore[arg-type]
        assert fast.policy() == found
