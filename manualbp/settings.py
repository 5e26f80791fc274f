"""A choice for the whole process, for a ``with`` block or for one model."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal, get_args

from torch import nn

Mode = Literal["exact", "fast"]
Memory = Literal["full", "low"]


class Setting:
    """``setting(choice)``, or ``setting(choice, model)`` for the modules of a model.

    A subclass is one setting: it has a name and choices, and ``now`` is the process's choice.
    """

    name: ClassVar[str]
    choices: ClassVar[tuple[str, ...]]
    now: ClassVar[str]
    key: ClassVar[str]  # under which a module has its own choice

    def __init_subclass__(cls) -> None:
        cls.key = f"manualbp_{cls.name}"

    def __init__(self, choice: str, model: nn.Module | None = None) -> None:
        if choice not in self.choices:
            choices = ", ".join(self.choices)
            raise ValueError(f"{self.name} must be one of {choices}, got {choice!r}")
        if not isinstance(model, (nn.Module, type(None))):
            kind = type(model).__name__
            raise TypeError(f"model must be an nn.Module, got {kind}; pass the model itself")
        self._before = self.now
        if model is None:
            type(self).now = choice
            return
        modules = list(model.modules())
        for module in modules:
            module.__dict__[self.key] = choice  # so that copies and files keep it
        if not any(map(_is_ours, modules)):
            warnings.warn(
                f"{type(model).__name__} has no module of manualbp, so {type(self).__name__} "
                "changes nothing until manualbp.convert(model) puts some into it",
                stacklevel=3,
            )

    def __enter__(self) -> None:
        """Nothing: the choice is made already."""

    def __exit__(self, *error: object) -> None:
        type(self).now = self._before


def _is_ours(module: nn.Module) -> bool:
    """Whether it, or what it inherits from, is manualbp's."""
    return any(kind.__module__.partition(".")[0] == __package__ for kind in type(module).__mro__)


class set_mode(Setting):  # a function to its users, like torch.set_grad_enabled
    """How chains are computed from now on; as a context manager, until its end.

    For the process, for a while, or for one model, whatever else is set::

        manualbp.set_mode("fast")
        with manualbp.set_mode("fast"): ...
        manualbp.set_mode("fast", model)

    Args:
        mode: "exact" has autograd's bits; "fast" is held to autograd's own distance from float64.
            What it runs is a rule of shapes, dtype, device and instruction set: the same program on
            the same machine with the same number of threads has the same bits.
        model: None, or a model whose modules keep the mode.

    Warns:
        UserWarning: ``model`` has no module of manualbp yet, so that nothing changes: it is
            ``convert`` that puts some into it. It may come afterwards, so this is no error.

    Raises:
        ValueError: an unknown mode.
        TypeError: ``model`` is no nn.Module.

    Example:
        >>> import torch
        >>> import manualbp
        >>> model, x = manualbp.MLP((4, 8, 3)), torch.randn(5, 4)
        >>> exact = model(x)
        >>> with manualbp.set_mode("fast"):
        ...     fast = model(x)
        >>> torch.allclose(fast, exact, atol=1e-6)
        True
    """

    name = "mode"
    choices = get_args(Mode)
    now = "exact"

    def __init__(self, mode: Mode, model: nn.Module | None = None) -> None:
        super().__init__(mode, model)


class set_memory(Setting):  # a function to its users, like set_mode
    """What is kept for backward from now on; as a context manager, until its end.

    For the process, for a while, or for one model, whatever else is set::

        manualbp.set_memory("low")
        with manualbp.set_memory("low"): ...
        manualbp.set_memory("low", model)

    Args:
        memory: "full" keeps what backward reads. "low" keeps only the input and the parameters of
            every chain, and computes forward again in backward: in exact mode one whole chain
            after the other, in fast mode one tile of rows after the other.
        model: None, or a model whose modules keep the choice.

    Warns:
        UserWarning: ``model`` has no module of manualbp yet, as for ``set_mode``.

    "low" changes nothing for chains with randomness or statistics of the batch (Dropout in
    training, BatchNorm1d), for the gate of a GatedMLP, and where training is distributed.

    Raises:
        ValueError: an unknown choice.
        TypeError: ``model`` is no nn.Module.

    Example:
        >>> import torch
        >>> import manualbp
        >>> model, x = manualbp.MLP((4, 8, 3)), torch.randn(5, 4)
        >>> with manualbp.set_memory("low"):
        ...     model(x).grad_fn.name()
        'RecomputedBackward'
    """

    name = "memory"
    choices = get_args(Memory)
    now = "full"

    def __init__(self, memory: Memory, model: nn.Module | None = None) -> None:
        super().__init__(memory, model)


def choices_of(module: nn.Module) -> tuple[str, str]:
    """Mode and memory of a module: its own choices, or else the process's."""
    own = module.__dict__
    return own.get(set_mode.key) or set_mode.now, own.get(set_memory.key) or set_memory.now
