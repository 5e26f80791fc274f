"""What a candidate's gradient may be made of: cotangents, inputs, outputs, what it saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import named
from manualbp.parity.arms.subject import Subject
from manualbp.parity.bits import to_double

SAVED, NODES = 12, 400  # saved tensors that are kept, and nodes of the graph that are looked at
BORROWED = 4  # of the reference's


@dataclass
class Seen:
    """What was seen of one run, by the names it has in words.

    Attributes:
        cotangents: ``grad_output``, or ``grad_output[0]`` where there are several outputs.
        values: inputs, outputs, saved tensors and parameters, float64; numbers that are there
            already have no second name.
        indices: inputs of whole numbers.
        returned: gradients as a Function's backward returned them, where it was ``asked``.
        borrowed: what the reference's graph saved, and this arm has not.
        numbers: tensors that a Function made in forward and saved without their graph.
    """

    cotangents: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    indices: dict[str, Tensor] = field(default_factory=dict)
    returned: dict[str, Tensor] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    asked: bool = False
    borrowed: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, name: str, value: Tensor) -> bool:
        """Add a tensor; False where its numbers are known already, or cannot be used."""
        if not (value.is_floating_point() or value.dtype == torch.bool) or not value.numel():
            return False
        value = to_double(value)
        if any(v.shape == value.shape and torch.equal(v, value) for v in self.values.values()):
            return False
        if (
            name not in self.values
            and value.isfinite().all()
            and not bool((value == value.flatten()[0]).all())
        ):
            self.values[name] = value
        return True

    def borrow(self, reference: Seen) -> None:
        """What the reference's graph saved and the candidate did not, a few of them."""
        new = {n: t for n, t in reference.values.items() if "Backward" in n}
        theirs = Seen(values=dict(self.values))
        for name, value in new.items():
            if len(theirs.values) < len(self.values) + BORROWED:
                theirs.keep(f"reference.{name.replace('Backward0', '').lower()}", value)
        self.borrowed = {n: t for n, t in theirs.values.items() if n not in self.values}


def watching(subject: Subject, seen: Seen) -> Callable[..., Any]:
    """The subject's call, which writes down what it sees into ``seen``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        alone = len(args) + len(kwargs) == 1 and args
        inputs = named((args, kwargs), lambda path: (
            "input" + pytree.keystr(path[2:] if alone else path[1:])))  # fmt: skip
        for name, value in inputs.items():
            if value.is_floating_point() or value.dtype == torch.bool:
                seen.keep(name, value)
            else:
                seen.indices[name] = value.detach().cpu()
        result = subject.call(*args, **kwargs)
        outputs = named(result, lambda path: "output" + pytree.keystr(path))
        for name, value in outputs.items():
            seen.keep(name, value)
            if value.requires_grad:
                _watch_cotangent(f"grad_{name}", value, seen)
        for name, parameter in subject.parameters.items():
            seen.keep(name, parameter)
        _keep_saved(outputs, _edges(inputs, subject), seen)
        return result

    return call


def _watch_cotangent(name: str, output: Tensor, seen: Seen) -> None:
    def arrives(gradient: Tensor) -> None:
        seen.cotangents[name] = to_double(gradient)

    output.register_hook(arrives)  # type: ignore[no-untyped-call]


def _edges(inputs: dict[str, Tensor], subject: Subject) -> dict[Any, str]:
    """The node, or the parameter, that takes a gradient -> the gradient's name."""
    found: dict[Any, str] = {p: f"{n}.grad" for n, p in subject.parameters.items()}
    return found | {x.grad_fn: f"{n}.grad" for n, x in inputs.items() if x.grad_fn is not None}


def _nodes(outputs: dict[str, Tensor]) -> Iterator[Any]:
    """The nodes of the graph, from the outputs down."""
    waiting: list[Any] = [o.grad_fn for o in outputs.values() if o.grad_fn is not None]
    known: set[Any] = set()
    while waiting and len(known) < NODES:
        node = waiting.pop(0)
        if node in known:
            continue
        known.add(node)
        yield node
        waiting += [after for after, _ in node.next_functions if after is not None]


def _keep_saved(outputs: dict[str, Tensor], edges: dict[Any, str], seen: Seen) -> None:
    """What the graph's nodes saved: ``saved[0]`` of a single Python Function, else by its name."""
    nodes = list(_nodes(outputs))
    by_hand = [node for node in nodes if hasattr(node, "_forward_cls") and node not in edges]
    for node in by_hand if seen.asked else ():
        _watch_returned(node, edges, seen)
    taken: list[tuple[str, Tensor]] = []
    for node in by_hand:
        before = (
            ""
            if len({other.name() for other in by_hand}) == 1
            else f"{node.name().removesuffix('Backward')}."
        )
        kept = {f"saved[{i}]": t for i, t in enumerate(node.saved_tensors)}
        kept |= {f"ctx.{n}": t for n, t in vars(node).items()}
        taken += [(before + n, t) for n, t in kept.items() if isinstance(t, Tensor)]
    made = [(n, t) for n, t in taken if seen.keep(n, t)]
    seen.numbers += [n for n, t in made if t.is_floating_point() and not t.requires_grad]
    for node in nodes:
        for attribute in dir(node) if node not in by_hand else ():
            value = getattr(node, attribute) if attribute.startswith("_saved_") else None
            if isinstance(value, Tensor) and len(seen.values) < SAVED:
                seen.keep(f"{node.name()}.{attribute.removeprefix('_saved_')}", value)


def _watch_returned(node: Any, edges: dict[Any, str], seen: Seen) -> None:
    """Ask the backward once more, by itself: autograd sums what it returns in too many dims."""

    def arrives(gradients: tuple[Tensor, ...]) -> None:
        given = [None if g is None else g.clone() for g in gradients]
        try:
            found = node._forward_cls.backward(node, *given)
        except Exception:  # it can be asked only once
            return
        found = found if isinstance(found, tuple) else (found,)
        for gradient, (after, _) in zip(
            (g for g, x in zip(found, node.needs_input_grad, strict=False) if x),
            (edge for edge in node.next_functions if edge[0] is not None), strict=False,
        ):  # fmt: skip
            name = edges.get(getattr(after, "variable", after))
            if isinstance(gradient, Tensor) and name is not None:
                seen.returned[name] = to_double(gradient)

    node.register_prehook(arrives)
