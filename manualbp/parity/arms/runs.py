r"""Run one arm once: every tensor that can be compared, by name.

    backward       output, loss, dC/dx, dC/dw for a random cotangent
    second_order   d/d(x, w) of sum_i <u_i, dC/dw_i>, u random (create_graph=True)
    forward_mode   the derivative along random tangents of x and w (a jvp)
    vmap           forward and backward of a stack of inputs under torch.func.vmap

A run leaves its arm as it was: inputs are cloned, buffers put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, Directions, named, refuse_complex
from manualbp.parity.arms.subject import AFTER, COMPILED, Subject
from manualbp.parity.judge.tolerance import bit_identical

Hook = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor | None]
VMAP_SIZES = (1.0, -0.5, 1.5)


@dataclass(frozen=True)
class Run:
    """The tensors of one run; ``structure`` is what the output looked like, its tensors left out.

    ``edited`` names what the arm wrote over although it only had to read it, ``sparse`` the
    gradients that were sparse; here they are dense.
    """

    tensors: Tensors
    structure: str = ""
    edited: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()


def seed_all(seed: int) -> None:
    """Seed the global generators of the devices in use.

    torch.manual_seed also notes it, with a stack trace, for every device that is not yet in use:
    milliseconds and memory at each call.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def backward(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> Run:
    """One forward and one backward. ``hook`` sees the gradient of every output.

    Raises:
        TypeError: the loss is no tensor, or there is no tensor in the output.
    """
    versions = {name: parameter._version for name, parameter in s.parameters.items()}
    with _buffers_kept(s) as changed:
        run, leaves, given, roots = _forward(s, call, hook)
        cotangents = _cotangents(roots, directions)
        gradients = _gradients(roots, cotangents, _wanted(s, leaves))
        buffers = changed()
    edited = [name for name, value in given.items() if not bit_identical(value, call.leaves[name])]
    edited += [name for name, p in s.parameters.items() if p._version != versions[name]]
    untouched = _cotangents(roots, directions)
    edited += [f"the gradient of {n}" for n, g in cotangents.items()
               if not bit_identical(g, untouched[n])]  # fmt: skip
    sparse = [n for n, g in gradients.items() if g is not None and g.layout != torch.strided]
    gradients |= {name: gradients[name].to_dense() for name in sparse}  # type: ignore[union-attr]
    found = run.tensors | gradients | buffers
    return Run(found, run.structure, tuple(edited), tuple(sparse))


def second_order(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> Run:
    """Gradients of sum_i <u_i, dC/dw_i>; None where the first gradient does not depend on it."""
    with _buffers_kept(s):
        run, leaves, _, roots = _forward(s, call, hook)
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
    """Outputs and gradients of a stack of inputs, the given ones times each of ``VMAP_SIZES``.

    Raises:
        ValueError: no input is floating point: there is nothing to stack.
    """
    primals = {n: x.detach() for n, x in _differentiable(s, call.leaves).items()}
    inputs = {n: x for n, x in primals.items() if n in call.leaves}
    if not inputs:
        raise ValueError("expected a floating-point input for vmap, got none; leave vmap out")
    rest = {n: x for n, x in primals.items() if n not in inputs}
    stacks = {n: torch.stack([x * size for size in VMAP_SIZES]) for n, x in inputs.items()}

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
) -> tuple[Run, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and loss; the leaves, and the clones the arm was given; where the way back starts."""
    seed_all(call.seed)  # every arm sees the same dropout; inside fork_rng
    leaves = {n: _leaf(x) for n, x in call.leaves.items()}
    with torch.enable_grad():
        # Clones: an arm may begin in place, as nn.ReLU(inplace=True) does, which no leaf allows.
        given = {n: x.clone() for n, x in leaves.items()}
        args, kwargs = call.replace(given)
        with warnings.catch_warnings():  # torch.compile asks its inputs; a clone has none
            warnings.filterwarnings(
                "ignore", r"The \.grad attribute of a Tensor that is not a leaf"
            )
            output = s.call(*args, **kwargs)
        outputs = _outputs(output)
        if hook is not None:
            for value in outputs.values():
                if value.requires_grad:
                    value.register_hook(hook)  # type: ignore[no-untyped-call]
        roots = outputs if call.loss is None else {"loss": _loss(call, output)}
    found = {name: value.detach() for name, value in (outputs | roots).items()}
    return Run(dict(found), _structure(output)), leaves, given, roots


@contextmanager
def _buffers_kept(s: Subject) -> Iterator[Callable[[], Tensors]]:
    """Buffers are put back in the end; calling what it yields gives those that have changed."""
    before = {} if s.module is None else {
        name: (buffer, buffer.clone()) for name, buffer in s.module.named_buffers()
    }  # fmt: skip

    def changed() -> Tensors:
        return {
            f"{name.replace(COMPILED, '')}{AFTER}": buffer.clone()
            for name, (buffer, old) in before.items() if not bit_identical(buffer, old)
        }  # fmt: skip

    try:
        yield changed
    finally:
        with torch.no_grad():
            for buffer, old in before.values():
                buffer.copy_(old)


def _outputs(output: Any) -> dict[str, Tensor]:
    outputs = named(output, lambda path: "output" + pytree.keystr(path))
    if not outputs:
        raise TypeError(
            f"expected an output with at least one tensor, got {type(output).__name__}; "
            "let the arm return what it computes"
        )
    for name, value in outputs.items():
        refuse_complex(name, value)
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
