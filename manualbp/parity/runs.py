r"""Run one arm once: every tensor that can be compared, by name.

    backward       output, loss, dC/dx, dC/dw for a random cotangent
    second_order   d/d(x, w) of sum_i <u_i, dC/dw_i>, u random (create_graph=True)
    forward_mode   the derivative along random tangents of x and w (a jvp)
    vmap           forward and backward of a stack of inputs under torch.func.vmap

Random directions are drawn once, by ``Directions``, and serve every arm, dtype and twin alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms import Subject
from manualbp.parity.tolerance import bit_identical

Loss = Callable[..., Tensor]
Hook = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor | None]
VMAP_COPIES = 3


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
            TypeError: they are none of these, or no floating-point tensor is among them.
        """
        if callable(inputs) and not isinstance(inputs, Tensor):
            inputs = inputs(seed)
        if isinstance(inputs, Mapping):
            return Call((), dict(inputs), loss, target, seed)
        if isinstance(inputs, Tensor):
            return Call((inputs,), {}, loss, target, seed)
        if isinstance(inputs, tuple | list):
            return Call(tuple(inputs), {}, loss, target, seed)
        raise TypeError(
            "expected inputs to be a tensor, a tuple of arguments, a dict of keyword arguments or "
            f"a function of the seed, got {type(inputs).__name__}"
        )

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Every tensor among the arguments: ``input``, ``input[1]['mask']``."""
        return named((self.args, self.kwargs), self._prefix)

    def replace(self, values: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors in their places."""
        pairs, spec = pytree.tree_flatten_with_path((self.args, self.kwargs))
        leaves = [values.get(self._prefix(path), leaf) for path, leaf in pairs]
        return pytree.tree_unflatten(leaves, spec)

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
        # The clone keeps it whole where a backward writes over its grad_output.
        return found.to(like.device, like.dtype, copy=True)


@dataclass(frozen=True)
class Run:
    """The tensors of one run; ``structure`` is what the output looked like, its tensors left out.

    ``edited`` names what the arm wrote over although it only had to read it.
    """

    tensors: Tensors
    structure: str = ""
    edited: tuple[str, ...] = ()


def seed_all(seed: int) -> None:
    """Seed the global generators of the devices in use.

    torch.manual_seed also notes it, with a stack trace, for every device that is not yet in use:
    milliseconds and memory at each call.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def random_cotangent(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of either sign with sizes in [0.5, 1.5]: never 1 by habit, never near zero."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.5 + torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, tuple(shape), generator=generator) * 2 - 1
    return (size * sign).to(dtype)


def named(tree: Any, prefix: Callable[[Any], str]) -> dict[str, Tensor]:
    """The tensors in nested tuples, lists, dicts and named tuples, by their path."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return {prefix(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def backward(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> Run:
    """One forward and one backward. ``hook`` sees the gradient of every output.

    Raises:
        TypeError: the loss is no tensor, or there is no tensor in the output.
    """
    versions = {name: parameter._version for name, parameter in s.parameters.items()}
    run, leaves, roots = _forward(s, call, hook)
    cotangents = _cotangents(roots, directions)
    gradients = _gradients(roots, cotangents, _wanted(s, leaves))
    edited = [name for name, leaf in leaves.items() if not bit_identical(leaf, call.leaves[name])]
    edited += [name for name, p in s.parameters.items() if p._version != versions[name]]
    untouched = _cotangents(roots, directions)
    edited += [f"the gradient of {n}" for n, g in cotangents.items()
               if not bit_identical(g, untouched[n])]  # fmt: skip
    return Run(run.tensors | gradients, run.structure, tuple(edited))


def second_order(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> Run:
    """Gradients of sum_i <u_i, dC/dw_i>; None where the first gradient does not depend on it."""
    run, leaves, roots = _forward(s, call, hook)
    wanted = _wanted(s, leaves)
    first = _gradients(roots, _cotangents(roots, directions), wanted, create_graph=True)
    again = {f"{n} u": g for n, g in first.items() if g is not None and g.requires_grad}
    second = _gradients(again, _cotangents(again, directions), wanted)
    return Run({f"second_order {name}": g for name, g in second.items()}, run.structure)


def forward_mode(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> Run:
    """The outputs' derivatives along random tangents of inputs and parameters."""
    primals = {n: x.detach() for n, x in _differentiable(s, call.leaves).items()}
    tangents = {n: directions.of(f"{n} tangent", x) for n, x in primals.items()}
    if hook is not None:
        tangents = {n: hook(t) for n, t in tangents.items()}
    found = torch.func.jvp(lambda values: _pure(s, call, values), (primals,), (tangents,))
    return Run({f"forward_mode {n}": t.detach() for n, t in found[1].items()})


def vmap(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> Run:
    """Outputs and gradients of ``VMAP_COPIES`` inputs at once, each the given ones times a number.

    Raises:
        ValueError: no input is floating point: there is nothing to stack.
    """
    primals = {n: x.detach() for n, x in _differentiable(s, call.leaves).items()}
    inputs = {n: x for n, x in primals.items() if n in call.leaves}
    if not inputs:
        raise ValueError("expected a floating-point input for vmap, got none; leave vmap out")
    rest = {n: x for n, x in primals.items() if n not in inputs}
    # Powers of two and their halves' sums: the products are exact in every dtype.
    sizes = [1.0, -0.5, 1.5][:VMAP_COPIES]
    stacks = {n: torch.stack([x * size for size in sizes]) for n, x in inputs.items()}

    def one(values: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs, pull, *_ = torch.func.vjp(lambda v: _pure(s, call, v), values | rest)
        cotangents = {n: directions.of(n, o.detach()) for n, o in outputs.items()}
        if hook is not None:
            cotangents = {n: hook(g) for n, g in cotangents.items()}
        (gradients,) = pull(cotangents)
        return outputs | {f"{n}.grad": g for n, g in gradients.items()}

    found = torch.func.vmap(one, randomness="same")(stacks)
    return Run({f"vmap {name}": value.detach() for name, value in found.items()})


KINDS: dict[str, Callable[..., Run]] = {
    "backward": backward,
    "second_order": second_order,
    "forward_mode": forward_mode,
    "vmap": vmap,
}


def _forward(
    s: Subject, call: Call, hook: Hook | None
) -> tuple[Run, dict[str, Tensor], dict[str, Tensor]]:
    """The outputs and the loss; the leaves among the inputs; what the way back starts from."""
    seed_all(call.seed)  # every arm sees the same dropout; inside fork_rng
    leaves = {n: _leaf(x) for n, x in call.leaves.items()}
    args, kwargs = call.replace(leaves)
    with torch.enable_grad():
        output = s.call(*args, **kwargs)
        outputs = _outputs(output)
        if hook is not None:
            for value in outputs.values():
                if value.requires_grad:
                    value.register_hook(hook)  # type: ignore[no-untyped-call]
        roots = outputs if call.loss is None else {"loss": _loss(call, output)}
    found = {name: value.detach() for name, value in (outputs | roots).items()}
    return Run(dict(found), _structure(output)), leaves, roots


def _outputs(output: Any) -> dict[str, Tensor]:
    outputs = named(output, lambda path: "output" + pytree.keystr(path))
    if not outputs:
        raise TypeError(
            f"expected an output with at least one tensor, got {type(output).__name__}; "
            "let the arm return what it computes"
        )
    return outputs


def _loss(call: Call, output: Any) -> Tensor:
    assert call.loss is not None
    value = call.loss(output) if call.target is None else call.loss(output, call.target)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(
            f"expected the loss to be a floating-point tensor, got {type(value).__name__}; "
            "return the tensor itself, not its item()"
        )
    return value


def _structure(output: Any) -> str:
    """The nesting and every leaf that is no tensor: ``(tensor, {'n': 3})``."""
    shown = pytree.tree_map(lambda leaf: _Shown("tensor") if isinstance(leaf, Tensor) else leaf,
                            output)  # fmt: skip
    return repr(shown)


class _Shown(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _cotangents(roots: Mapping[str, Tensor], directions: Directions) -> dict[str, Tensor]:
    floating = {name: root for name, root in roots.items() if root.is_floating_point()}
    return {name: directions.of(name, root.detach()) for name, root in floating.items()}


def _gradients(
    roots: Mapping[str, Tensor],
    cotangents: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    create_graph: bool = False,
) -> Tensors:
    """d sum_i <cotangent_i, root_i> by name; None for what does not exist."""
    live = [name for name in cotangents if roots[name].requires_grad]
    if not live or not wanted:  # an output cut off from its graph: no gradient at all
        return dict.fromkeys(wanted)
    gradients = torch.autograd.grad(
        [roots[name] for name in live],
        list(wanted.values()),
        [cotangents[name] for name in live],
        allow_unused=True,
        create_graph=create_graph,
    )
    return dict(zip(wanted, gradients, strict=True))


def _differentiable(s: Subject, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs and parameters that have a gradient."""
    found = {n: x for n, x in leaves.items() if x.is_floating_point()}
    return found | {n: p for n, p in s.parameters.items() if p.requires_grad}


def _wanted(s: Subject, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.grad": x for name, x in _differentiable(s, leaves).items()}


def _pure(s: Subject, call: Call, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs, or the loss, as a function of inputs and parameters by name."""
    seed_all(call.seed)
    args, kwargs = call.replace(values)
    if s.module is None:
        output = s.call(*args, **kwargs)
    else:
        own = {path: values[name] for name, path in s.own.items() if name in values}
        output = torch.func.functional_call(s.module, own, args, kwargs)
    found = _outputs(output) if call.loss is None else {"loss": _loss(call, output)}
    return {name: value for name, value in found.items() if value.is_floating_point()}


def _leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_(values.is_floating_point())
