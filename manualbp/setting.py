"""A choice for the whole process, for a ``with`` block or for one model."""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar

from torch import nn


class Setting:
    """``setting(choice)``, or ``setting(choice, model)`` for the modules of a model.

    A subclass is one setting: it says its name, its choices, and holds the process's one.
    """

    name: ClassVar[str]
    choices: ClassVar[tuple[str, ...]]
    now: ClassVar[str]
    key: ClassVar[str]  # of a module's own choice

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
        for module in model.modules():
            module.__dict__[self.key] = choice  # so that copies and files keep it

    def __enter__(self) -> None:
        """Nothing: the choice is made already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        type(self).now = self._before

    @classmethod
    def of(cls, module: nn.Module) -> str:
        """The module's choice, or where it has none the process's."""
        return module.__dict__.get(cls.key) or cls.now
