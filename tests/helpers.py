"""Shared by the tests: PyTorch's twin of a model, one pass, what it keeps, a training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import manualbp


def autograd_twin(model: nn.Sequential) -> nn.Sequential:
    """PyTorch's own nn.Sequential with copies of the same children."""
    return nn.Sequential(*copy.deepcopy(list(model)))


def hand_twin(model: nn.Sequential) -> manualbp.Sequential:
    """Our Sequential with copies of the same children."""
    return manualbp.Sequential(*copy.deepcopy(list(model)))


def gradients(model: nn.Module, x: Tensor, cotangent: Tensor | None = None) -> dict[str, Tensor]:
    """Output, input and parameter gradients of one pass; None where autograd gives none."""
    x = x.detach().requires_grad_(x.requires_grad)
    output = model(x)
    output.backward(output.detach().cos() if cotangent is None else cotangent)
    named = {name: p.grad for name, p in model.named_parameters()}
    return {"output": output.detach(), "input": x.grad, **named}


def differing(candidate: dict[str, Tensor], reference: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that differ in at least one bit."""
    from manualbp.parity import bit_identical

    return [
        name
        for name in {**candidate, **reference}
        if not (
            (candidate[name] is None and reference[name] is None)
            or (
                candidate[name] is not None
                and reference[name] is not None
                and bit_identical(candidate[name], reference[name])
            )
        )
    ]


def kept_bytes(net: nn.Module, x: Tensor) -> tuple[int, int]:
    """Of distinct storages kept for backward: all, and without those that were there before."""
    before = {t.untyped_storage().data_ptr() for t in (x, *net.parameters(), *net.buffers())}
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net(x)
    del output
    new = sum(s.nbytes() for pointer, s in storages.items() if pointer not in before)
    return sum(s.nbytes() for s in storages.values()), new


def fitted(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int
) -> dict[str, Tensor]:
    """Every loss of a classifier trained on one batch, and the weights at the end."""
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), **model.state_dict()}
