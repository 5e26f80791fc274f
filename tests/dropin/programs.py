"""Programs that others write around an nn.Sequential: functions of a network to what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.flop_counter import FlopCounterMode

from tests.dropin.nets import backpropagated, rows

Net = Any


def steps(net: nn.Module, count: int = 3, **options: Any) -> Iterator[int]:
    """Training steps by Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, **options)
    for step in range(count):
        optimizer.zero_grad()
        torch.manual_seed(step)
        net(rows()).pow(2).mean().backward()
        optimizer.step()
        yield step


class Lora(nn.Module):
    """A frozen Linear with a trained product of low rank beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Quantized(nn.Parameter):
    """A parameter that is dequantized where it is used."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight, bias = args
            return F.linear(x, weight.as_subclass(Tensor).mul(8).floor().div(8), bias)
        return super().__torch_function__(func, types, args, kwargs or {})


def average(net: Net) -> Any:
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    swa = AveragedModel(net)
    for _ in steps(net):
        ema.update_parameters(net)
        swa.update_parameters(net)
    update_bn([rows()], swa)
    return [ema(rows()), swa(rows())]


def clipped(net: Net) -> Any:
    for _ in steps(net):
        norm = nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        nn.utils.clip_grad_value_(net.parameters(), 0.05)
    return norm, list(net.parameters())


def as_vector(net: Net) -> Any:
    vector = parameters_to_vector(net.parameters()).detach()
    output = net(rows())
    vector_to_parameters(vector * 2, net.parameters())  # between the passes
    output.sum().backward()
    vector_to_parameters(vector * 3, net.parameters())
    return net(rows()), [p.grad for p in net.parameters()]


def with_lora(net: Net) -> Any:
    torch.manual_seed(1)
    for name, module in list(net.named_modules()):
        if type(module) is nn.Linear:
            net.set_submodule(name, Lora(module))
    return list(steps(net)), list(net.parameters()), net(rows())


def merged(net: Net) -> Any:
    """Adapters folded into the weights, in place, between two steps."""
    for _ in steps(net):
        with torch.no_grad():
            for m in net.modules():
                if type(m) is nn.Linear:
                    m.weight += 0.01 * torch.ones(m.out_features, 1) @ torch.ones(1, m.in_features)
    return list(net.parameters())


def quantized_parameters(net: Net) -> Any:
    for m in net.modules():
        if type(m) is nn.Linear:
            m.weight = Quantized(m.weight.detach(), requires_grad=True)
    return backpropagated(net)


def stateless(net: Net) -> Any:
    doubled = {name: 2 * p for name, p in net.named_parameters()}
    with torch.nn.utils.stateless._reparametrize_module(net, doubled):
        output = net(rows())
    return torch.autograd.grad(output.pow(2).sum(), list(net.parameters()))


def applied(net: Net) -> Any:
    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias) if module.bias is not None else None

    torch.manual_seed(0)
    net.apply(start)
    return backpropagated(net)


def frozen_midway(net: Net) -> Any:
    for step in steps(net, 4):
        next(iter(net.parameters())).requires_grad_(step % 2 == 1)
    return list(net.parameters())


def shared_memory(net: Net) -> Any:
    net.share_memory()
    assert all(p.is_shared() for p in net.parameters())
    return list(steps(net)), list(net.parameters())


def profiled(net: Net) -> Any:
    with torch.profiler.profile() as profile, torch.profiler.record_function("step"):
        found = backpropagated(net)
    assert any("mm" in event.key for event in profile.key_averages())
    return found


def flops(net: Net) -> Any:
    with FlopCounterMode(display=False) as counter:
        found = backpropagated(net)
    return found, torch.tensor(counter.get_total_flops())


def summary(net: Net) -> Any:
    """As torchinfo does: a hook on every leaf, taken off afterwards."""
    shapes: list[Any] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        shapes.append(torch.tensor(output.shape))

    leaves = [m for m in net.modules() if not list(m.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    net(rows())
    for handle in handles:
        handle.remove()
    return shapes, backpropagated(net)


def features(net: Net) -> Any:
    """The output of a layer inside, with its gradient."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    layer = next(m for m in net.modules() if type(m) is nn.Linear)
    layer.register_forward_hook(keep)
    net(rows()).pow(2).sum().backward()
    return kept[0], kept[0].grad


def fused(net: Net) -> Any:
    return list(steps(net, foreach=True)), list(steps(net, fused=True)), list(net.parameters())


def lbfgs(net: Net) -> Any:
    optimizer = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe", max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        torch.manual_seed(0)
        cost = net(rows()).pow(2).mean()
        cost.backward()
        return cost

    return optimizer.step(closure), list(net.parameters())


def set_to_none(net: Net) -> Any:
    """Accumulation into gradients that are there, zeroed or shared."""
    flat = torch.zeros(sum(p.numel() for p in net.parameters()), dtype=torch.float64)
    views = flat.split([p.numel() for p in net.parameters()])
    for p, view in zip(net.parameters(), views, strict=True):
        p.grad = view.view_as(p)
    for _ in range(2):
        torch.manual_seed(0)
        net(rows()).pow(2).sum().backward()
        net.zero_grad(set_to_none=False) if _ == 0 else None
    return flat


def reused(net: Net) -> Any:
    """The network applied to its own output."""
    x = rows(grad=True)
    net(net(net(x))).pow(2).sum().backward()
    return x.grad, [p.grad for p in net.parameters()]


def views(net: Net) -> Any:
    """Inputs that are views, are expanded, are not contiguous; outputs edited in place."""
    base = rows(12, grad=True)
    found = []
    for x in (base[::2], base[:1].expand(4, 6), base.view(3, 4, 6)[1], base.t().contiguous().t()):
        output = net(x)
        output[0] += 1
        output.mul_(2)
        found.append(output)
    try:
        torch.cat(found).pow(2).sum().backward()
    except RuntimeError as error:  # where f' is read from the output
        assert "modified by an inplace operation" in str(error)
        return [torch.tensor(0)]
    return base.grad, [p.grad for p in net.parameters()]


def edited_input(net: Net) -> Any:
    """The input written over after forward, as buffers are that are used again: same outcome."""
    x = rows()
    output = net(x)
    x.zero_()
    try:
        output.sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return [torch.tensor(0)]
    return [p.grad for p in net.parameters()]


def in_parallel(net: Net) -> Any:
    return backpropagated(nn.DataParallel(net))  # without a GPU it calls the module


def named_input(net: Net) -> Any:
    """A tensor with a Python attribute, and one that is a Parameter."""
    x = rows()
    x.note = "kept"  # type: ignore[attr-defined]
    return net(x), net(nn.Parameter(rows()))


PROGRAMS: list[Callable[[Net], Any]] = [
    average, clipped, as_vector, with_lora, merged, quantized_parameters, stateless, applied,
    frozen_midway, shared_memory, profiled, flops, summary, features, fused, lbfgs, set_to_none,
    reused, views, edited_input, in_parallel, named_input,
]  # fmt: skip
