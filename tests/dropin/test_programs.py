"""What other people's programs do with an nn.Sequential; ours does the same, bit by bit."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from tests.dropin.nets import NAMES, backpropagated, pair, rows, unequal
from tests.dropin.programs import PROGRAMS, Net


@pytest.mark.filterwarnings("ignore:Profiler clears events at the end:UserWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_programs(name: str, program: Callable[[Net], Any]) -> None:
    """Bit-exact."""
    found = []
    for net in pair(name):
        torch.manual_seed(2)
        found.append(program(net))
    assert unequal(*found) == ""


class Wrapped(Tensor):
    """A tensor by __torch_dispatch__."""

    inner: Tensor

    @staticmethod
    def __new__(cls: Any, inner: Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bare = torch.utils._pytree.tree_map_only(Wrapped, lambda t: t.inner, (args, kwargs or {}))
        return func(*bare[0], **bare[1])


def test_wrapped_inputs() -> None:
    """Bit-exact: subclasses by __torch_dispatch__ see PyTorch's operators."""
    ours, theirs = pair("deep")
    assert unequal(ours(Wrapped(rows())), theirs(Wrapped(rows()))) == ""


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_dynamic_quantization() -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no quantized engine")
    found = []
    for net in pair("deep", torch.float32):
        quantized = torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear})
        found.append(quantized(rows(dtype=torch.float32)))
    assert unequal(*found) == ""


def in_a_process(net: nn.Module, queue: Any) -> None:
    torch.set_num_threads(1)
    net(rows()).pow(2).sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.1 * p.grad  # in shared memory
    queue.put(float(net(rows()).detach().sum()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_shared_with_a_process() -> None:
    """Bit-exact: a forked process trains the shared parameters, as Hogwild does."""
    found = []
    for net in pair("deep"):
        net.share_memory()
        context = torch.multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=in_a_process, args=(net, queue))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        found.append([torch.tensor(queue.get()), *net.parameters()])
    assert unequal(*found) == ""


def test_reloaded_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-exact: objects of the modules from before an autoreload go on, and mix with new ones."""
    ours, theirs = pair("deep")
    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "manualbp"}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    again = importlib.import_module("manualbp")
    assert again is not manualbp
    assert unequal(backpropagated(ours), backpropagated(theirs)) == ""
    mixed = again.Sequential(ours, again.Sequential(*copy.deepcopy(list(theirs))))
    twin = nn.Sequential(copy.deepcopy(theirs), copy.deepcopy(theirs))
    for net in (mixed, twin):
        net.zero_grad()
    assert unequal(backpropagated(mixed), backpropagated(twin)) == ""


def test_single_file_reload() -> None:
    """importlib.reload of one module after the other, as notebooks do."""
    ours, theirs = pair("deep")
    saved = dict(vars(manualbp.modules.sequential))
    try:
        importlib.reload(manualbp.modules.sequential)
        made = manualbp.modules.sequential.Sequential(*ours)
        assert unequal(backpropagated(made), backpropagated(theirs)) == ""
    finally:
        vars(manualbp.modules.sequential).update(saved)
    assert Path(manualbp.modules.sequential.__file__).exists()
