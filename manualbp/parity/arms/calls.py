"""What an arm is called with, and the random directions its derivatives are taken along."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manualbp.parity.arms.checks import check_tensor
from manualbp.parity.arms.layouts import copy_as_laid
from manualbp.parity.arms.trees import leaves, mapped

Loss = Callable[..., Tensor]
Device = torch.device | str
L = TypeVar("L", bound=Loss | None)


@dataclass(frozen=True)
class Call:
    """What an arm is called with: ``module(*args, **kwargs)``, then ``loss(output[, target])``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Loss | None
    target: Any = None
    seed: int = 0

    @staticmethod
    def of(inputs: Any, loss: Loss | None, target: Any, seed: int) -> Call:
        """Inputs are one tensor, a sequence of arguments, a dict of them, or made by a function.

        Raises:
            TypeError: they are none of these, or a tensor is complex, sparse or nested.
        """
        if callable(inputs) and not isinstance(inputs, Tensor):
            inputs = inputs(seed)
        if isinstance(inputs, Mapping):
            call = Call((), dict(inputs), loss, target, seed)
        elif isinstance(inputs, Tensor):
            call = Call((inputs,), {}, loss, target, seed)
        elif isinstance(inputs, tuple | list):
            call = Call(tuple(inputs), {}, loss, target, seed)
        else:
            raise TypeError(
                "expected inputs to be a tensor, a tuple of arguments, a dict of keyword arguments "
                f"or a function of the seed, got {type(inputs).__name__}; "
                "put another single argument into a tuple: (argument,)"
            )
        for name, leaf in call.leaves.items():
            check_tensor(name, leaf)
        return call

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Every tensor among the arguments: ``input``, ``input[1]['mask']``."""
        return named((self.args, self.kwargs), self._prefix)

    def with_leaves(self, values: Mapping[str, Tensor]) -> Call:
        """The same with other tensors among the arguments, by the names of ``leaves``."""

        def other(path: Any, leaf: Any) -> Any:
            return values.get(self._prefix(path), leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = mapped(other, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    def to(self, dtype: torch.dtype | None = None, device: Device | None = None) -> Call:
        """The same with ``moved`` arguments and target; the loss stays as it is."""
        args, kwargs, target = moved((self.args, self.kwargs, self.target), dtype, device)
        return replace(self, args=args, kwargs=kwargs, target=target)

    def without_loss(self) -> Call:
        """The same, where backward starts at the outputs."""
        return replace(self, loss=None, target=None)

    def loss_of(self, output: Any) -> Any:
        """``loss(output)``, or ``loss(output, target)`` where there is a target."""
        assert self.loss is not None
        return self.loss(output) if self.target is None else self.loss(output, self.target)

    def _prefix(self, path: Any) -> str:
        """One argument alone is ``input``, several are ``input[0]``, a keyword ``input['x']``."""
        alone = len(self.args) + len(self.kwargs) == 1 and self.args
        return "input" + pytree.keystr(path[2:] if alone else path[1:])


class WrongShape(ValueError):
    """An output of another shape than the reference's: there is no direction for it."""

    def __init__(self, name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
        super().__init__(f"shape {got}, expected {expected}")
        self.name = name


@dataclass
class Directions:
    """Cotangents and tangents by name, drawn at their first use and then the same for everyone."""

    seed: int
    drawn: dict[str, Tensor] = field(default_factory=dict)

    def of(self, name: str, like: Tensor) -> Tensor:
        """The direction for a tensor, in its dtype and on its device.

        Raises:
            WrongShape: the tensor has another shape than the one it was drawn for.
        """
        if name not in self.drawn:
            seed = self.seed + 1009 * len(self.drawn)
            self.drawn[name] = random_cotangent(like.shape, like.dtype, seed)
        found = self.drawn[name]
        if found.shape != like.shape:
            raise WrongShape(name, tuple(like.shape), tuple(found.shape))
        # A copy: a backward may write over its grad_output.
        return copy_as_laid(found, lambda x: x.to(like.device, like.dtype, copy=True))


def seed_all(seed: int) -> None:
    """Seed the global generators of the devices in use.

    torch.manual_seed also writes down a stack trace for every device that is not yet in use, which
    costs milliseconds and memory at each call.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def random_cotangent(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Random numbers of either sign with sizes in [0.5, 1.5]: never near zero."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.5 + torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, tuple(shape), generator=generator) * 2 - 1
    return (size * sign).to(dtype)


def named(tree: Any, prefix: Callable[[Any], str]) -> dict[str, Tensor]:
    """The tensors in nested values, also in dataclasses and objects, named by their path."""
    return {prefix(path): leaf for path, leaf in leaves(tree) if isinstance(leaf, Tensor)}


def moved(tree: Any, dtype: torch.dtype | None = None, device: Device | None = None) -> Any:
    """Nested values with floating-point tensors in that dtype and all tensors on that device."""

    def move(_path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        wanted = dtype if leaf.is_floating_point() else None
        if wanted in (None, leaf.dtype) and (device is None or leaf.device == torch.device(device)):
            return leaf
        return copy_as_laid(leaf, lambda x: x.to(device, wanted))

    return mapped(move, tree)


def cast_loss(loss: L, dtype: torch.dtype | None) -> L:
    """The loss; a module (with class weights, say) as a copy in ``dtype``."""
    if not isinstance(loss, nn.Module) or dtype is None:
        return loss
    return copy.deepcopy(loss).to(dtype)
