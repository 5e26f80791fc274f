"""Whether kernels are there for a tensor: a Triton, a device and numbers that they take.

Without a GPU and without Triton, of which there are stand-ins.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manualbp.fast.gpu import kernels


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has been tried."""
    monkeypatch.setattr(kernels, "_tried", set())
    kernels._run.cache_clear()
    yield
    kernels._run.cache_clear()


def finding(triton: Any) -> SimpleNamespace:
    """Stands for importlib in that module alone: nobody else is to meet such a Triton."""
    return SimpleNamespace(
        util=SimpleNamespace(find_spec=lambda name: triton), import_module=lambda name: triton
    )


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Triton, and kernels for CPU tensors; what they compute is ``kernel``'s to say."""
    triton = SimpleNamespace(__version__="3.4.0+git1", tried=0, kernel=lambda: torch.tensor([3.0]))

    def load() -> Any:
        triton.tried += 1
        return SimpleNamespace(activated_linear=lambda *args: (triton.kernel(), None))

    monkeypatch.setattr(kernels, "importlib", finding(triton))
    monkeypatch.setattr(kernels, "_INTERPRETED", True)
    monkeypatch.setattr(kernels, "load", load)
    return triton


def test_taken(interpreted: SimpleNamespace) -> None:
    """Tried once. Old versions and wrong results are refused without a word."""
    for dtype in kernels.DTYPES:
        assert kernels.takes(torch.zeros(2, dtype=dtype))
        assert kernels.takes(nn.Parameter(torch.zeros(2, dtype=dtype)))
    assert interpreted.tried == 1
    for version, value, taken in (
        ("3.3.1", 3.0, False),
        ("3.10.0", 3.0, True),
        ("4.0", 4.0, False),
    ):
        kernels._run.cache_clear()
        interpreted.__version__, interpreted.kernel = version, lambda v=value: torch.tensor([v])
        assert kernels.takes(torch.zeros(2)) == taken


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "x",
    [torch.zeros(2).double(), torch.zeros(2, dtype=torch.int64), torch.zeros(2, device="meta"),
     torch.zeros(2).as_subclass(Subclass), torch.zeros(2, dtype=torch.complex64), [0.0], None],
    ids=["float64", "int64", "meta", "subclass", "complex", "list", "None"],
)  # fmt: skip
def test_not_taken(x: object, interpreted: SimpleNamespace) -> None:
    assert not kernels.takes(x) and interpreted.tried == 0


def test_a_default_dtype_is_not_the_kernels(interpreted: SimpleNamespace) -> None:
    """They are tried on numbers that they take."""
    seen = []

    def linear(h: Tensor, *_: object) -> tuple[Tensor, None]:
        seen.append(h.dtype)
        return torch.tensor([3.0]), None

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "load", lambda: SimpleNamespace(activated_linear=linear))
            assert kernels.takes(torch.zeros(2, dtype=torch.float32)) and seen == [torch.float32]
    finally:
        torch.set_default_dtype(before)


def test_modes_see_pytorchs_operators(interpreted: SimpleNamespace) -> None:
    """A counter of operations knows ATen's; and nothing is decided while one looks on."""
    with FlopCounterMode(display=False):
        assert not kernels.takes(torch.zeros(2))
    assert interpreted.tried == 0 and kernels.takes(torch.zeros(2))


def test_nothing_is_tried_during_a_capture(
    interpreted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    x: Any = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device("cpu"))
    monkeypatch.setattr(kernels, "Tensor", SimpleNamespace)
    monkeypatch.setattr(kernels, "_INTERPRETED", False)
    for capturing, taken, tried in ((True, False, 0), (False, True, 1), (True, True, 1)):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda c=capturing: c)
        assert kernels.takes(x) == taken and interpreted.tried == tried


def test_a_triton_that_fails_says_why_once(interpreted: SimpleNamespace) -> None:
    def fail() -> Tensor:
        raise OSError("no C compiler\nat all")

    interpreted.kernel = fail
    words = r"do not run on cpu: OSError: no C compiler; ATen's routines are used instead"
    with pytest.warns(UserWarning, match=words) as found:
        assert not kernels.takes(torch.zeros(2)) and not kernels.takes(torch.zeros(3))
    assert len(found) == 1 and interpreted.tried == 1


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """No word of it; who asks for the kernels themselves is told what to install."""
    monkeypatch.setattr(kernels, "importlib", finding(None))
    monkeypatch.setattr(kernels, "_INTERPRETED", True)
    assert not kernels.takes(torch.zeros(2))
    with pytest.raises(ImportError, match=r'in the clone: pip install -e "\.\[triton\]"'):
        kernels.load()


def test_old_gpus(interpreted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device, **options: ones(*size, **options))
    for capability, taken in (((7, 5), False), ((8, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d, c=capability: c)
        kernels._run.cache_clear()
        assert kernels._run(torch.device("cuda", 0)) == taken


def test_tf32_by_pytorchs_flags() -> None:
    """The old flag and the new one, where there is one."""
    before = torch.get_float32_matmul_precision()
    try:
        for precision, expected in (("highest", False), ("high", True), ("highest", False)):
            torch.set_float32_matmul_precision(precision)
            assert kernels.tf32() == expected
    finally:
        torch.set_float32_matmul_precision(before)
