"""Both arms hold the same numbers, no memory in common, and come back unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from manualbp.parity.arms.subject import Subject, subject
from manualbp.parity.bits import bit_identical


def load_parameters(
    candidate: nn.Module, reference: nn.Module, parameters: Mapping[str, str] | None = None
) -> None:
    """Give the candidate the reference's numbers, by the parameter map, and buffers of equal name.

    Args:
        candidate: the module that is written to, in its own dtypes.
        reference: the module that is read.
        parameters: the candidate's name of a parameter -> the reference's, where they differ.

    Raises:
        ValueError: a name or a shape has no counterpart; nothing is changed then.
        TypeError: an arm is nothing that can be compared.

    Example:
        >>> from torch import nn
        >>> from manualbp.parity import bit_identical, load_parameters
        >>> ours, theirs = nn.Sequential(nn.Linear(4, 2)), nn.Linear(4, 2)
        >>> load_parameters(ours, theirs, {"0.weight": "weight", "0.bias": "bias"})
        >>> bit_identical(ours[0].weight, theirs.weight)
        True
    """
    ours, theirs = subject(candidate, parameters), subject(reference)
    for name, parameter in ours.parameters.items():
        twin = theirs.parameters.get(name)
        if twin is None or twin.shape != parameter.shape:
            got = "no such parameter" if twin is None else f"shape {tuple(twin.shape)}"
            raise ValueError(
                f"expected {name} {tuple(parameter.shape)} in the reference, got {got}; "
                "map the candidate's name to it with parameters={candidate's: reference's}"
            )
    with torch.no_grad():
        for name, parameter in ours.parameters.items():
            parameter.copy_(theirs.parameters[name])
        for name, buffer in ours.buffers.items():
            source = theirs.buffers.get(name)
            if source is not None and source.shape == buffer.shape:
                buffer.copy_(source)


def check_parameters(candidate: Subject, reference: Subject) -> None:
    """Parameters of one name, shape and dtype hold the same bits, or nothing can be compared.

    Raises:
        ValueError: they do not, or no name is common although both have parameters.
    """
    ours, theirs = candidate.parameters, reference.parameters
    if ours and theirs and not set(ours) & set(theirs):
        raise ValueError(
            f"expected common parameter names, got {', '.join(ours)} and {', '.join(theirs)}; "
            "pass parameters={candidate's: reference's}"
        )
    for name, parameter in theirs.items():
        twin = ours.get(name)
        alike = twin is not None and (twin.shape, twin.dtype) == (parameter.shape, parameter.dtype)
        if twin is not None and alike and not bit_identical(twin, parameter):
            raise ValueError(
                f"expected both modules to hold the same parameters, got different {name}; "
                "use candidate.load_state_dict(reference.state_dict()), or "
                "manualbp.parity.load_parameters where names differ"
            )


def check_apart(candidate: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """The arms share no parameter's memory: one arm's step would move the other.

    Raises:
        ValueError: they do.
    """
    own = {parameter.data_ptr() for parameter in candidate.values() if parameter.numel()}
    for name, parameter in reference.items():
        if parameter.numel() and parameter.data_ptr() in own:
            raise ValueError(
                f"expected each arm to have its own parameters, got {name} in both, so that both "
                f"train the same {name}; give one arm copy.deepcopy(module)"
            )


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
