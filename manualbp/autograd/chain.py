"""Backpropagation as torch.autograd.Functions with explicit gradients.

``Chain`` is a chain of layers. It keeps what each layer keeps: h_l only if dC/dW_l is wanted, W_l
only if something below layer l wants a gradient, z_l or a_l as f' needs, a bias never. So memory,
and which edits in place raise an error, are those of autograd.

Double backward: every activation that is kept leaves the Function as an output beside o, though no
user sees it. So what is kept carries its graph. Where autograd records the backward pass
(``create_graph=True``), the recursion depends on x, W and b through it: right to any order, with
nothing computed twice. Kept as plain tensors, activations would count as constants, silently wrong.
The operators of the recursion have derivatives themselves. ``Recursion`` has one written by hand,
the R-operator of ``backprop.double_backward``. It runs where it was measured to be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from manualbp.autograd import torch_internals
from manualbp.autograd.segment import Segment, Task
from manualbp.autograd.torch_internals import asked_for, batched, wanted
from manualbp.maths import backprop
from manualbp.maths.backprop import Gradients, Step
from manualbp.maths.layers import Linear, Needs, Tape, own, total


class Chain(torch.autograd.Function):
    """o = f_L(... f_1(x; theta_1) ...; theta_L), with dC/dx and every dC/dtheta by hand.

    ``apply_chain(segment, skip, *segment.parameters, x)[0]``; x (..., I), o (..., O).
    With ``skip``, which is x once more, o = skip + that. skip comes first because autograd adds up
    the gradients of x in that order. The other outputs are activations that backward reads.
    """

    @staticmethod
    def forward(ctx: Any, segment: Segment, skip: Tensor | None, *tensors: Any) -> Any:
        task = segment.task(ctx.needs_input_grad[2:])
        o, tape = backprop.forward(tensors[-1], task.steps)
        ctx.save_for_backward(*tape)
        # o itself leaves anyway, unless it is added to skip.
        end = len(task.steps) - (skip is None)
        hidden = [(i, tape[at]) for i, at in task.activations if i < end and tape[at] is not None]
        ctx.segment, ctx.task = segment, task
        ctx.skips, ctx.hidden = skip is not None, [i for i, _ in hidden]
        ctx.set_materialize_grads(False)
        return (o if skip is None else skip + o, *[a for _, a in hidden])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *grad_hidden: Tensor | None) -> Any:
        tape = list(ctx.saved_tensors)  # raises autograd's error if freed, or edited in place
        task, segment, wants_skip = ctx.task, ctx.segment, False
        if torch.compiler.is_compiling() or not _all_wanted(ctx):
            present = ctx.skips, *segment.present, True
            wants_skip, *wants = wanted(ctx, ctx.needs_input_grad[1:], present)
            task = segment.task(tuple(wants))
        clear = None if torch.compiler.is_compiling() else ctx.maybe_clear_saved_tensors
        found = _gradients(ctx.task, task, tape, grad_output, grad_hidden, ctx.hidden, clear)
        return None, grad_output if wants_skip else None, *found.thetas, found.input


def _gradients(
    before: Task, task: Task, tape: Tape, delta: Tensor | None, grad_hidden: Sequence[Any],
    hidden: Sequence[int], clear: Callable[[], None] | None,
) -> Gradients:  # fmt: skip
    """The backward pass over the tape that forward left ``before``, for ``task``'s gradients."""
    injected = {i: g for i, g in zip(hidden, grad_hidden, strict=True) if g is not None}
    if torch.is_grad_enabled():
        return _recorded(delta, task.steps, with_graphs(before.steps, tape), injected)
    compiling = torch.compiler.is_compiling()
    over = not (delta is None or compiling or batched(delta))
    if clear is not None:
        clear()  # each is freed when its layer is done
    return backprop.backward(delta, task.steps, tape, "kernel", over, injected)


def backward_of(
    segment: Segment, before: Sequence[int], now: Sequence[int], hidden: Sequence[int], tape: Tape,
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:  # fmt: skip
    """The backward pass of a chain that ran elsewhere: dC/dtheta as ``parameters``, and dC/dx.

    Args:
        segment: the chain.
        before: which gradients of ``(*parameters, x)`` were wanted at forward.
        now: which are wanted in this pass.
        hidden: the layers whose outputs left beside o.
        tape: what forward kept.
        grads: dC/do, and dC/da of each hidden output.
    """
    task, kept = segment.task(tuple(map(bool, now))), segment.task(tuple(map(bool, before)))
    found = _gradients(kept, task, tape, grads[0], grads[1:], hidden, None)
    return [*found.thetas, found.input]


apply_chain = torch_internals.applied(Chain)


def _all_wanted(ctx: Any) -> bool:
    """Whether this very backward pass wants all that forward did, as far as that is quickly known.

    The nodes of parameters are looked up in each pass. Kept, they would outlive their graph.
    """
    if ctx.task.ends is None:
        return False
    nodes = ctx.next_functions
    return all(asked_for(nodes[ctx.skips + end][0]) for end in ctx.task.ends)


def with_graphs(steps: Sequence[Step], tape: Tape) -> Tape:
    """The tape with every W that carries a graph, for a backward pass that is recorded.

    W has the requires_grad that it had at forward: autograd's linear keeps W^T, made back then.

    Raises:
        RuntimeError: a weight was frozen, or its data was exchanged, since forward.
    """
    found, start = list(tape), 0
    for layer, theta, needs in steps:
        values = tape[start + 1] if isinstance(layer, Linear) else None
        if values is not None and needs.theta[0]:
            found[start + 1] = as_at_forward(theta[0], values)
        start += layer.keeps
    return found


def as_at_forward(weight: Any, values: Tensor) -> Tensor:
    """The weight with its graph, if it still is what forward read."""
    if not weight.requires_grad:
        raise RuntimeError(
            "a weight was frozen between forward and a backward with create_graph=True; "
            "run forward again after requires_grad_(False)"
        )
    if not weight.is_set_to(values):
        raise RuntimeError(
            "a weight's data was exchanged between forward and a backward with "
            "create_graph=True; run forward again"
        )
    return weight


def _recorded(
    delta: Tensor | None, steps: Sequence[Step], tape: Tape, injected: dict[int, Tensor]
) -> Gradients:
    """The backward pass in a graph that is being recorded."""
    if not _by_r_operator(steps, tape):
        return backprop.backward(delta, steps, tape, "recorded", injected=injected)
    incoming = [injected.get(i) for i in range(len(steps))]
    incoming[-1] = total(delta, incoming[-1])
    found = Recursion.apply(steps, *incoming, *tape)  # type: ignore[no-untyped-call]
    count = sum(len(step.theta) for step in steps)
    return Gradients(found[0], list(found[1 : 1 + count]), [])


def _by_r_operator(steps: Sequence[Step], tape: Tape) -> bool:
    if torch_internals.transforms_active() or torch_internals.forward_mode():
        return False  # these look inside a program
    start, faster = 0, False
    for layer, *_ in steps:
        if not layer.by_r_operator:
            return False
        faster = faster or layer.prefers_r_operator(tape[start : start + layer.keeps])
        start += layer.keeps
    return faster


class Recursion(torch.autograd.Function):
    """The backward pass of a ``Chain`` as a function that has derivatives itself.

    ``Recursion.apply(steps, *incoming, *tape)``, incoming the delta that comes in at each layer.
    Returns dC/dx, every dC/dtheta in the order of ``backprop.flat``, and the deltas that its own
    backward reads.
    """

    @staticmethod
    def forward(ctx: Any, steps: Sequence[Step], *tensors: Any) -> Any:
        incoming, tape = tensors[: len(steps)], tensors[len(steps) :]
        injected = {i: t for i, t in enumerate(incoming) if t is not None}
        grad_input, thetas, deltas = backprop.backward(
            None, steps, list(tape), "recorded", injected=injected
        )
        # A delta that is no sum is what came in. The others leave, so that they carry their graph.
        found = [i for i, d in enumerate(deltas) if d is not None and d is not incoming[i]]
        for i in found:
            deltas[i] = own(deltas[i])  # type: ignore[arg-type]
        ctx.save_for_backward(*tape, *deltas)
        ctx.steps, ctx.found = steps, found
        ctx.present = [t is not None for t in tensors]
        ctx.set_materialize_grads(False)
        outputs = [None if g is None else own(g) for g in (grad_input, *thetas)]
        return (*outputs, *[deltas[i] for i in found])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        steps, count = ctx.steps, len(ctx.steps)
        tape, deltas = ctx.saved_tensors[:-count], ctx.saved_tensors[-count:]
        v_input, *rest = grad_outputs
        parameters = sum(len(step.theta) for step in steps)
        v_thetas = backprop.by_layer([step.layer for step in steps], rest[:parameters])
        v_deltas: list[Tensor | None] = [None] * count
        for i, v in zip(ctx.found, rest[parameters:], strict=True):
            v_deltas[i] = v
        asked = wanted(ctx, ctx.needs_input_grad[1:], ctx.present)[count:]
        tangents, grads = backprop.double_backward(
            v_input, v_thetas, v_deltas, deltas, _asking(steps, asked), tape
        )
        pairs = zip((*tangents, *grads), ctx.present, strict=True)
        return None, *(t if there else None for t, there in pairs)


def _asking(steps: Sequence[Step], asked: Sequence[bool]) -> list[Step]:
    """The steps for the gradients of those tensors on the tape that are asked for."""
    found, start = [], 0
    for step in steps:
        h_or_a, *others = asked[start : start + step.layer.keeps]
        needs = Needs(h_or_a, tuple(others[: len(step.theta)]))
        found.append(step._replace(needs=needs))
        start += step.layer.keeps
    return found
