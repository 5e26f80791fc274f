"""A network of three layers with a backward by hand, whose formulas can be exchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from manualbp.parity.arms.calls import Call
from manualbp.parity.arms.forward import only_rows
from manualbp.parity.arms.runs import backward
from manualbp.parity.arms.subject import subject
from manualbp.parity.diagnosis.diagnose import diagnose
from manualbp.parity.diagnosis.doubled import Doubled
from manualbp.parity.diagnosis.evidence import Evidence, Rerun
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.yardstick import in_float64
from manualbp.parity.record import Finding

N, SIZES = 13, (6, 8, 8, 5)  # lengths that cannot be mistaken for each other


@dataclass(frozen=True)
class Rules:
    """The formulas of a backward pass; a fault is another one."""

    weight: Callable[[int, Tensor, Tensor], Tensor] = lambda _, delta, h: delta.t() @ h
    bias: Callable[[int, Tensor], Tensor] = lambda _, delta: delta.sum(0)
    slope: Callable[[int, Tensor], Tensor] = lambda l, z: slope(l, z)  # noqa: E741
    first: Callable[[Tensor], Tensor] = lambda grad: grad
    into: Callable[[Tensor], Tensor] = lambda dx: dx
    order: Callable[[list[Tensor]], list[Tensor]] = lambda gradients: gradients


def slope(layer: int, z: Tensor) -> Tensor:
    """tanh behind layer 0, ReLU behind layer 1."""
    return 1 - z.tanh() ** 2 if layer == 0 else (z > 0).to(z.dtype)


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rules: Rules, x: Tensor, *p: Tensor) -> Tensor:
        z0 = functional.linear(x, p[0], p[1])
        z1 = functional.linear(z0.tanh(), p[2], p[3])
        ctx.rules = rules
        ctx.save_for_backward(x, z0, z1, *p)
        return functional.linear(z1.relu(), p[4], p[5])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, z0, z1, *p = ctx.saved_tensors
        rules, delta = ctx.rules, ctx.rules.first(grads[0])
        found: list[Tensor] = []
        for layer, h, z in ((2, z1.relu(), z1), (1, z0.tanh(), z0), (0, x, x)):
            found = [rules.weight(layer, delta, h), rules.bias(layer, delta), *found]
            delta = delta @ p[2 * layer]
            if layer:
                delta = delta * rules.slope(layer - 1, z)
        return None, rules.into(delta), *rules.order(found)


class Mine(nn.Sequential):
    rules = Rules()

    def forward(self, x: Tensor) -> Tensor:
        return ByHand.apply(self.rules, x, *self.parameters())


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    i, h, k, o = SIZES
    net = nn.Sequential(nn.Linear(i, h), nn.Tanh(), nn.Linear(h, k), nn.ReLU(), nn.Linear(k, o))
    return net.to(dtype)


def inputs(rows: int = N) -> Tensor:
    return torch.randn(rows, SIZES[0], generator=torch.Generator().manual_seed(1))


def gather(candidate: nn.Module, reference: nn.Module, x: Tensor, **options: Any) -> Evidence:
    """The evidence of one backward check of two modules of one batch dimension."""
    seed, loss = 0, options.pop("loss", None)
    call = Call.of(x, loss, None, seed)
    ours, theirs = subject(candidate), subject(reference)
    comparison = Comparison("backward", ours, theirs, call, **options)
    double = theirs.copy(torch.float64)
    assert double.module is not None
    ran: dict[str, Tensor] = {}
    for name, child in double.module.named_modules():
        if not list(child.children()):
            child.register_forward_hook(lambda _, __, z, name=name: ran.update({name: z.detach()}))
    call64 = in_float64(call)
    double.call(*call64.args)
    pre = dict(ran)
    names = [n for layer in reversed(pre) for n in theirs.parameters if n.startswith(f"{layer}.")]

    def both(c: Call, hook: Any = None) -> Rerun:
        d = comparison.directions if hook else copy.deepcopy(comparison.directions)
        if not hook:
            d.drawn = {n: v[: len(c.args[0])] for n, v in d.drawn.items()}
        exact = backward(double, in_float64(c), d, hook).tensors
        got = backward(ours, c, d, hook).tensors
        return got, {n: v for n, v in exact.items() if v is not None}

    return Evidence(
        reports=comparison.reports, candidate=comparison.ours.tensors,
        exact=comparison.yardstick.exact, sums=comparison.yardstick.sums,
        order=(*(f"{n}.grad" for n in names), "input.grad"),
        layers={f"{n}.grad": n.rpartition(".")[0] for n in names} | {"input.grad": "0"},
        rows=comparison.rows, pre_activations=pre,
        probe=lambda mask: both(call, only_rows(mask)),
        prefix=lambda n: both(replace(call, args=(x[:n],))),
        doubled=Doubled(comparison),
    )  # fmt: skip


def evidence_of(rules: Rules, rows: int = N, dtype: torch.dtype = torch.float32) -> Evidence:
    reference = network(dtype)
    candidate = Mine(*copy.deepcopy(list(reference)))
    candidate.rules = rules
    return gather(candidate, reference, inputs(rows).to(dtype))


def found(rules: Rules, rows: int = N, dtype: torch.dtype = torch.float32) -> dict[str, Finding]:
    return {f.tensor: f for f in diagnose(evidence_of(rules, rows, dtype))}
