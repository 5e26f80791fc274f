"""Modules that are lent for a comparison and come back unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def borrowed(*modules: nn.Module | None) -> Iterator[None]:
    """Whatever is done to the modules inside, afterwards they are as before, by the bit.

    Parameters and buffers (also their dtype and device), ``.grad``, ``requires_grad``, the
    train/eval mode of every child, and the global random state.
    """
    present = [module for module in modules if module is not None]
    parameters = [
        (p, p.data, p.data.clone(), p.grad, p.requires_grad)
        for module in present for p in module.parameters()
    ]  # fmt: skip
    buffers = [
        (child, name, buffer, buffer.clone())
        for module in present for child in module.modules()
        for name, buffer in child.named_buffers(recurse=False)
    ]  # fmt: skip
    modes = [(child, child.training) for module in present for child in module.modules()]
    devices = {p.device for p, *_ in parameters if p.device.type == "cuda"}
    for parameter, *_ in parameters:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for p, data, before, grad, requires_grad in parameters:
                p.grad = None  # of another dtype or device, it would refuse the old data
                p.data = data.copy_(before)
                p.grad = grad
                p.requires_grad_(requires_grad)
            for child, name, buffer, before in buffers:
                setattr(child, name, buffer.copy_(before))
        for child, training in modes:
            child.training = training
