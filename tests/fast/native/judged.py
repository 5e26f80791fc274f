"""The ways to a network's gradients, and their distance from float64 beside autograd's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast.native import tiled
from manualbp.maths import activations

Found = dict[str, Tensor | None]

# Where f' jumps, or C': there two right roundings of z have unequal derivatives.
KINKS = 1e-5
JUMPS: dict[type[nn.Module], tuple[float, ...]] = {
    nn.ReLU: (0,), nn.LeakyReLU: (0,), nn.ELU: (0,), nn.SELU: (0,), nn.Hardtanh: (-1, 1),
    nn.L1Loss: (0,), nn.HuberLoss: (0.5, -0.5), nn.SmoothL1Loss: (0.3, -0.3),
}  # fmt: skip


def network(
    widths: tuple[int, ...], name: str = "tanh", norm: bool = True, bias: bool = True
) -> nn.Sequential:
    """Linear, f, LayerNorm for each hidden width, then Linear."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for i, o in pairwise(widths[:-1]):
        parts += [nn.Linear(i, o, bias), activations.to_module(activations.by_name(name))]
        parts += [nn.LayerNorm(o, bias=bias)] if norm else []
    net = nn.Sequential(*parts, nn.Linear(widths[-2], widths[-1], bias))
    with torch.no_grad():
        for part in net:
            if isinstance(part, nn.LayerNorm):
                part.weight.uniform_(0.5, 1.5)
    return net


def losses(classes: int = 5) -> dict[str, tuple[nn.Module, str]]:
    """All six with their options, and the kind of target."""
    torch.manual_seed(1)
    w = torch.rand(classes) + 0.5
    return {
        "mse": (nn.MSELoss(), "numbers"),
        "mse sum": (nn.MSELoss(reduction="sum"), "numbers"),
        "l1": (nn.L1Loss(), "numbers"),
        "l1 sum": (nn.L1Loss(reduction="sum"), "numbers"),
        "huber": (nn.HuberLoss(delta=0.5), "numbers"),
        "smooth_l1 sum": (nn.SmoothL1Loss(beta=0.3, reduction="sum"), "numbers"),
        "bce": (nn.BCEWithLogitsLoss(), "unit"),
        "bce weights": (nn.BCEWithLogitsLoss(w, pos_weight=w + 1, reduction="sum"), "unit"),
        "classes": (nn.CrossEntropyLoss(), "indices"),
        "classes sum": (nn.CrossEntropyLoss(reduction="sum"), "indices"),
        "classes weights": (
            nn.CrossEntropyLoss(w, ignore_index=1, label_smoothing=0.1), "indices"
        ),
        "probabilities": (nn.CrossEntropyLoss(w, label_smoothing=0.2), "probabilities"),
    }  # fmt: skip


def data(net: nn.Sequential, loss: nn.Module, kind: str, rows: int) -> tuple[Tensor, Tensor]:
    """x and y: seeded, and in no row closer to a kink than KINKS."""
    torch.manual_seed(2)
    first, last = net[0], net[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    x, y = torch.randn(rows, first.in_features), target(kind, rows, last.out_features)
    double = copy.deepcopy(net).double()
    for _ in range(50):
        h, near = x.double(), torch.zeros(rows, dtype=torch.bool)
        for part in [*double, loss]:
            if type(part) in JUMPS:
                z = h - y if part is loss else h
                for jump in JUMPS[type(part)]:
                    near |= (z - jump).abs().amin(1) < KINKS
            h = h if part is loss else part(h).detach()
        if not near.any():
            return x, y
        x[near] = torch.randn(int(near.sum()), x.shape[1])
    raise AssertionError("every row is near a kink")


def target(kind: str, rows: int, classes: int) -> Tensor:
    if kind == "indices":
        return torch.arange(rows) % classes
    y = torch.randn(rows, classes)
    return y if kind == "numbers" else y.sigmoid() if kind == "unit" else y.softmax(-1)


def plain(net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    cost: Tensor = loss(net(x), y)
    cost.backward()
    return cost.detach()


def graph(net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    cost: Tensor = manualbp.FusedLoss(net, loss)(x, y)
    assert node(cost) == "FusedLossBackward"
    cost.backward()
    return cost.detach()


def direct(net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    fused = manualbp.FusedLoss(net, loss)
    return fused.backward(x, y)


def dropin(net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model = manualbp.Sequential(*net)
    manualbp.set_mode("fast", model)
    o = model(x)
    assert node(o) == "TilesBackward" or x.requires_grad
    cost: Tensor = loss(o, y)
    cost.backward()
    return cost.detach()


def recomputed(net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The drop-in with its activations computed again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "FRESH_BYTES", 0)
        return dropin(net, loss, x, y)


WAYS: dict[str, Callable[..., Tensor]] = {
    "graph": graph, "direct": direct, "dropin": dropin, "recomputed": recomputed,
}  # fmt: skip


def node(t: Tensor) -> str:
    return type(t.grad_fn).__name__


def found(way: Callable[..., Tensor], net: Any, loss: nn.Module, x: Tensor, y: Tensor) -> Found:
    """C and every gradient, by name; the network and x are left as they were."""
    net, x = copy.deepcopy(net), x.detach().requires_grad_(x.requires_grad)
    net.zero_grad()
    cost = way(net, loss, x, y)
    return {"C": cost, "x": x.grad, **{name: p.grad for name, p in net.named_parameters()}}


def exact(net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor) -> Found:
    y = y.double() if y.is_floating_point() else y
    doubled = x.detach().double().requires_grad_(x.requires_grad)
    double = copy.deepcopy(net).double(), copy.deepcopy(loss).double()
    return found(plain, *double, doubled, y)


def too_far(ours: Found, theirs: Found, truth: Found) -> Iterator[str]:
    """Tensors whose error is above 1.5 times autograd's, and 8 eps of the tensor's size.

    Sums in another order err otherwise, not more; where a tensor is few numbers, autograd's own
    error may be near none by luck, which the 8 eps allow for.
    """
    eps = torch.finfo(torch.float32).eps
    for name, e in truth.items():
        a, b = ours[name], theirs[name]
        if e is None or a is None or b is None:
            if not (a is b is e is None):
                yield f"{name}: None in one of them"
            continue
        errors = [float((t.double() - e).norm()) for t in (a, b)]
        most = 1.5 * errors[1] + 8 * eps * float(e.norm())
        if a.shape != e.shape or a.dtype is not b.dtype or not errors[0] <= most:
            yield f"{name}: {errors[0]:.2e} from float64, autograd {errors[1]:.2e}, most {most:.2e}"


def wrong(
    net: nn.Sequential, loss: nn.Module, x: Tensor, y: Tensor, ways: Any = tuple(WAYS)
) -> list[str]:
    """What is too far from float64, in each of these ways."""
    truth, theirs = exact(net, loss, x, y), found(plain, net, loss, x, y)
    return [
        f"{way}: {text}"
        for way in ways
        for text in too_far(found(WAYS[way], net, loss, x, y), theirs, truth)
    ]


def same(a: Found, b: Found) -> bool:
    """Bit for bit, and None in the same places."""
    return a.keys() == b.keys() and all(
        t is b[name] is None or (t is not None and b[name] is not None and torch.equal(t, b[name]))  # type: ignore[arg-type]
        for name, t in a.items()
    )
