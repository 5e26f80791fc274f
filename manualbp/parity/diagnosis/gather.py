"""What a diagnosis asks the two arms: their layers' outputs, what arrives there, single rows.

Only asked where something differs. Hooks watch the candidate's children. What they see counts only
where the gradients have the same bits as without hooks: a module may compute otherwise when it is
watched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import Tensors, only_rows
from manualbp.parity.arms.runs import RUN_KINDS
from manualbp.parity.arms.subject import Subject
from manualbp.parity.bits import both_identical, to_double
from manualbp.parity.diagnosis.doubled import Doubled
from manualbp.parity.diagnosis.evidence import Evidence, Rerun
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.tolerance import compare_tensors


def gather(comparison: Comparison) -> Evidence:
    """Everything that ``diagnose`` reads, of one comparison."""
    yardstick, double = comparison.yardstick, comparison.twins.double
    inputs = {f"{name}.grad" for name in comparison.call.leaves}
    layers = _layers(comparison, inputs)
    names = set(layers.values())
    double.load(comparison.reference)
    watched, _ = _watched(comparison, double, names, yardstick.double_call)
    place = {layer: i for i, layer in enumerate(watched)}
    late = {n: -1.0 if n in inputs else place.get(layer, -0.5) for n, layer in layers.items()}
    if watched:  # what arrives at the inputs is what the first layer sends
        layers |= dict.fromkeys(inputs & layers.keys(), next(iter(watched)))
    known = Evidence(
        reports=comparison.reports, candidate=comparison.ours.tensors, exact=yardstick.exact,
        sums=yardstick.sums, order=tuple(sorted(layers, key=lambda name: -late[name])),
        layers=layers, rows=comparison.rows,
        pre_activations={layer: output for layer, (output, _) in watched.items()},
    )  # fmt: skip
    if not comparison.ours.tensors:  # it raised: nothing to ask
        return known
    probe = _probe(comparison) if comparison.rows else None
    incoming = _incoming(comparison, names)
    return replace(known, probe=probe, prefix=_prefix(comparison), incoming=incoming,
                   doubled=Doubled(comparison))  # fmt: skip


def _layers(comparison: Comparison, inputs: set[str]) -> dict[str, str]:
    """Every gradient's name -> the layer it belongs to: ``fc1.weight.grad`` -> ``fc1``.

    A parameter of the module itself belongs to ``""``; an input is a layer of its own.
    """
    found = {n: n.removesuffix(".grad") for n in comparison.theirs.tensors if n.endswith(".grad")}
    return {n: own if n in inputs else own.rpartition(".")[0] for n, own in found.items()}


def _watched(
    comparison: Comparison, arm: Subject, layers: set[str], call: Call
) -> tuple[dict[str, tuple[Tensor, Tensor | None]], Tensors]:
    """The layers' outputs and the gradients that arrive there, in the order of their calls."""
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def after(module: nn.Module, args: object, output: object) -> None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return
            seen[name] = to_double(output), None

            def arrives(gradient: Tensor | None) -> None:
                if gradient is None:  # nothing reads this output
                    return
                seen[name] = seen[name][0], to_double(gradient)

            output.register_hook(arrives)  # type: ignore[no-untyped-call]

        return after

    module = arm.module
    named = dict(module.named_modules()) if module is not None else {}
    handles = [named[name].register_forward_hook(watch(name)) for name in layers if name in named]
    try:
        run = RUN_KINDS[comparison.kind](arm, call, comparison.directions)
    finally:
        for handle in handles:
            handle.remove()
    return seen, run.tensors


def _incoming(comparison: Comparison, layers: set[str]) -> dict[str, bool] | None:
    """Layer -> whether the gradient that arrives at its output agrees; None if nothing is seen."""
    try:
        ours, again = _watched(comparison, comparison.candidate, layers, comparison.candidate_call)
    except Exception:  # some modules take no hooks
        return None
    first = comparison.ours.tensors
    undisturbed = all(both_identical(again.get(name), value) for name, value in first.items())
    if not ours or not undisturbed:
        return None
    theirs, _ = _watched(comparison, comparison.reference, layers, comparison.call)
    double = comparison.twins.double
    double.load(comparison.reference)
    exact, _ = _watched(comparison, double, layers, comparison.yardstick.double_call)
    dtype = comparison.yardstick.dtype
    found = {}
    for layer, (_, c) in ours.items():
        (_, r), (_, o) = theirs.get(layer, (None, None)), exact.get(layer, (None, None))
        if c is not None and r is not None and o is not None and c.shape == r.shape:
            found[layer] = compare_tensors(layer, c.to(dtype), r.to(dtype), o).agrees
    return found


def _probe(comparison: Comparison) -> Callable[[Tensor], Rerun]:
    """Both arms with the outputs' gradients zero outside of some rows of the batch."""

    def probe(rows: Tensor) -> Rerun:
        hook, call, directions = only_rows(rows), comparison.call, comparison.directions
        exact = comparison.yardstick.rerun(call, directions, hook)
        return comparison.rerun_candidate(hook=hook), exact

    return probe


def _prefix(comparison: Comparison) -> Callable[[int], Rerun] | None:
    """Both arms on the first rows of the inputs alone."""
    rows, call = comparison.rows, comparison.call
    if rows is None or not any(_batched(x, rows) for x in call.leaves.values()):
        return None

    def prefix(count: int) -> Rerun:
        def first(tree: Any) -> Any:
            return pytree.tree_map(lambda x: x[:count] if _batched(x, rows) else x, tree)

        args, kwargs, target = first((call.args, call.kwargs, call.target))
        short = replace(call, args=args, kwargs=kwargs, target=target)
        directions = Directions(call.seed, first(comparison.directions.drawn))
        exact = comparison.yardstick.rerun(short, directions)
        return comparison.rerun_candidate(short, directions), exact

    return prefix


def _batched(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
