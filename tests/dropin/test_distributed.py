"""Data parallel, sharded and tensor parallel wrappers, in a group of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.dropin.nets import pair, rows, unequal
from tests.versions import SHARDS_ON_CPU

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def static(net: nn.Module) -> nn.Module:
    return DistributedDataParallel(net, static_graph=True, gradient_as_bucket_view=True)


def unused(net: nn.Module) -> nn.Module:
    return DistributedDataParallel(net, find_unused_parameters=True)


def sharded(net: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(net, mesh=init_device_mesh("cpu", (1,)))


def tensor_parallel(net: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
    from torch.distributed.tensor.parallel import parallelize_module as parallelize

    linear = [n for n, m in net.named_modules() if type(m) is nn.Linear]
    plan = {linear[0]: ColwiseParallel(), linear[1]: RowwiseParallel()}
    return parallelize(net, init_device_mesh("cpu", (1,)), plan)


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


SHARDED = pytest.param(
    sharded, marks=pytest.mark.skipif(not SHARDS_ON_CPU, reason="this PyTorch's FSDP2 needs a GPU")
)


@pytest.mark.parametrize("wrap", [static, unused, SHARDED], ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", ["deep", "layernorm", "residual", "gated", "block"])
def test_data_parallel(name: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Bit-exact over three steps."""
    found = []
    for net in pair(name):
        wrapped, optimizer = wrap(net), torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(rows()).pow(2).sum().backward()
            optimizer.step()
        found.append([whole(t) for p in net.parameters() for t in (p.detach(), p.grad)])
    assert unequal(*found) == ""


def test_tensor_parallel() -> None:
    """Bit-exact: the weights are DTensors, so PyTorch's own forward runs."""
    found = []
    for net in pair("deep"):
        tensor_parallel(net)(rows()).pow(2).sum().backward()
        found.append([whole(p.grad) for p in net.parameters()])
    assert unequal(*found) == ""
