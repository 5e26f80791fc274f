"""Both arms hold the same numbers, and no memory in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from manualbp.parity.arms.subject import COMPILED, Subject, subject
from manualbp.parity.bits import bit_identical


def load_parameters(
    candidate: nn.Module, reference: nn.Module, parameters: Mapping[str, str] | None = None
) -> None:
    """Give the candidate the reference's numbers, by the parameter map, and buffers of equal name.

    Raises:
        ValueError: a name or a shape has no counterpart; nothing is changed then.
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
    buffers = dict(reference.named_buffers())
    with torch.no_grad():
        for name, parameter in ours.parameters.items():
            parameter.copy_(theirs.parameters[name])
        for name, buffer in candidate.named_buffers():
            source = buffers.get(name.replace(COMPILED, ""))
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
