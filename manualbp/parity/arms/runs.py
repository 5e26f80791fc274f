r"""Run one arm once: every tensor that can be compared, by name.

    backward       output, loss, dC/dx, dC/dw for a random cotangent
    second_order   d/d(x, w) of sum_i <u_i, dC/dw_i>, u random (create_graph=True)
    forward_mode   the derivative along random tangents of x and w (a jvp)
    vmap           forward and backward of a stack of inputs under torch.func.vmap
    autocast       backward, with forward and loss under torch.autocast

A run leaves its arm as it was: inputs are cloned, buffers restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import Hook, Tensors, as_function, buffers_restored, forward
from manualbp.parity.arms.subject import Subject, kept_running
from manualbp.parity.bits import bit_identical

VMAP_SIZES = (1.0, -0.5, 1.5)


@dataclass(frozen=True)
class ArmRun:
    """The tensors of one run; ``structure`` is what the output looked like, its tensors left out.

    ``edited`` names what the arm wrote over although it only had to read it, ``sparse`` the
    gradients that were sparse; here they are dense.
    """

    tensors: Tensors
    structure: str = ""
    edited: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()


@kept_running()
def backward(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> ArmRun:
    """One forward and one backward. ``hook`` sees the gradient of every output.

    Raises:
        TypeError: the loss is no tensor, or there is no tensor in the output.
    """
    parameters = {n: p.detach().clone() for n, p in s.parameters.items()}
    arrived: list[tuple[Tensor, Tensor]] = []  # what a loss sends back, and a copy

    def sees(gradient: Tensor) -> Tensor:
        arrived.append((gradient, gradient.clone()))
        return gradient

    with buffers_restored(s) as changed:
        made = forward(s, call, sees if hook is None and call.loss is not None else hook)
        cotangents = cotangents_of(made.roots, directions)
        gradients = gradients_of(made.roots, cotangents, wanted_of(s, made.leaves))
        buffers = changed()
    # By their contents: a kernel writes without telling PyTorch.
    expected = call.leaves | parameters | made.tensors
    held = made.given | s.parameters | made.live
    edited = [n for n, value in held.items() if not bit_identical(value, expected[n])]
    untouched = cotangents_of(made.roots, directions)
    edited += [f"the gradient of {n}" for n, g in cotangents.items()
               if not bit_identical(g, untouched[n])]  # fmt: skip
    if not all(bit_identical(gradient, before) for gradient, before in arrived):
        edited.append("the gradient of the output")
    sparse = [n for n, g in gradients.items() if g is not None and g.layout != torch.strided]
    found: Tensors = {**made.tensors, **own_copies(gradients), **buffers}
    return ArmRun(found, made.structure, tuple(edited), tuple(sparse))


@kept_running()
def second_order(
    s: Subject, call: Call, directions: Directions, hook: Hook | None = None
) -> ArmRun:
    """Gradients of sum_i <u_i, dC/dw_i>; None where the first gradient does not depend on it."""
    with buffers_restored(s):
        made = forward(s, call, hook)
        wanted = wanted_of(s, made.leaves)
        cotangents = cotangents_of(made.roots, directions)
        first = gradients_of(made.roots, cotangents, wanted, create_graph=True)
        again = {f"{n} u": g for n, g in first.items() if g is not None and g.requires_grad}
        second = gradients_of(again, cotangents_of(again, directions), wanted)
    return ArmRun({f"second_order {name}": g for name, g in second.items()}, made.structure)


@kept_running()
def forward_mode(
    s: Subject, call: Call, directions: Directions, hook: Hook | None = None
) -> ArmRun:
    """The outputs' derivatives along random tangents of inputs and parameters."""
    primals = {n: x.detach() for n, x in _differentiable(s, call.leaves).items()}
    tangents = {n: directions.of(f"{n} tangent", x) for n, x in primals.items()}
    if hook is not None:
        tangents = {n: hook(t) for n, t in tangents.items()}
    found = torch.func.jvp(lambda values: as_function(s, call, values), (primals,), (tangents,))
    return ArmRun({f"forward_mode {n}": t.detach() for n, t in found[1].items()})


@kept_running()
def vmap(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> ArmRun:
    """Outputs and gradients of a stack of inputs, the given ones times each of ``VMAP_SIZES``.

    Raises:
        ValueError: no input is floating point: there is nothing to stack.
    """
    rest = {n: x.detach() for n, x in _differentiable(s, call.leaves).items()}
    inputs = {n: rest.pop(n) for n in call.leaves if n in rest}
    if not inputs:
        raise ValueError("expected a floating-point input for vmap, got none; leave vmap out")
    stacks = {n: torch.stack([x * size for size in VMAP_SIZES]) for n, x in inputs.items()}

    def one(values: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs, pull, *_ = torch.func.vjp(lambda v: as_function(s, call, v), values | rest)
        cotangents = {n: directions.of(n, o.detach()) for n, o in outputs.items()}
        if hook is not None:
            cotangents = {n: hook(g) for n, g in cotangents.items()}
        (gradients,) = pull(cotangents)
        return outputs | {f"{n}.grad": g for n, g in gradients.items()}

    found = torch.func.vmap(one, randomness="same")(stacks)
    return ArmRun({f"vmap {name}": value.detach() for name, value in found.items()})


def autocast(s: Subject, call: Call, directions: Directions, hook: Hook | None = None) -> ArmRun:
    """``backward`` with forward and loss under autocast, in the dtype of ``autocast_dtype``."""
    device, dtype = device_of(s, call), autocast_dtype(device_of(s, call))

    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, dtype):
                return function(*args, **kwargs)

        return run

    inside = replace(call, loss=None if call.loss is None else within(call.loss))
    found = backward(replace(s, call=within(s.call)), inside, directions, hook)
    return replace(found, tensors={f"autocast {n}": t for n, t in found.tensors.items()})


def device_of(s: Subject, call: Call) -> str:
    """The kind of device that an arm runs on."""
    found = (t.device.type for t in (*s.parameters.values(), *call.leaves.values()))
    return next(found, "cpu")


def autocast_dtype(device: str) -> torch.dtype:
    """What autocast rounds products to by default: bfloat16 on CPUs, float16 on GPUs."""
    return torch.get_autocast_dtype(device)


RUN_KINDS: dict[str, Callable[..., ArmRun]] = {
    run.__name__: run for run in (backward, second_order, forward_mode, vmap, autocast)
}


def cotangents_of(roots: Mapping[str, Tensor], directions: Directions) -> dict[str, Tensor]:
    """A cotangent for each floating-point root, by its name."""
    return {n: directions.of(n, r.detach()) for n, r in roots.items() if r.is_floating_point()}


@kept_running()
def gradients_of(
    roots: Mapping[str, Tensor],
    cotangents: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    create_graph: bool = False,
    keep: bool = False,
) -> Tensors:
    """d sum_i <cotangent_i, root_i> by name; None for what does not exist.

    With ``keep`` the graph can be gone through again.
    """
    live = [name for name in cotangents if roots[name].requires_grad]
    if not live or not wanted:  # an output cut off from its graph: no gradient at all
        return dict.fromkeys(wanted)
    gradients = torch.autograd.grad(
        [roots[name] for name in live],
        list(wanted.values()),
        [cotangents[name] for name in live],
        allow_unused=True,
        create_graph=create_graph,
        retain_graph=create_graph or keep,
    )
    return dict(zip(wanted, gradients, strict=True))


def _differentiable(s: Subject, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs and parameters that have a gradient."""
    found = {n: x for n, x in leaves.items() if x.is_floating_point()}
    return found | {n: p for n, p in s.parameters.items() if p.requires_grad}


def own_copies(gradients: Tensors) -> Tensors:
    """Dense copies: an arm may hand out memory that its next call writes over."""
    return {n: None if g is None else g.to_dense().clone() for n, g in gradients.items()}


def wanted_of(s: Subject, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a gradient is asked for, by the gradient's name."""
    found = _differentiable(s, leaves)
    return {f"{name}.grad": x for name, x in found.items() if x.requires_grad}
