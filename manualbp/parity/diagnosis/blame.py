"""Whose fault a wrong gradient is: its own layer's, or that of what arrived there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from manualbp.parity.arms.forward import LOSS
from manualbp.parity.diagnosis.evidence import Evidence, Pattern, title

# Kinds that say too little to tell whether two wrongs are the same one.
VAGUE = ("unknown", "rounding")
OF_THE_LOSS = "the gradient that the loss sends back"


class Blame(NamedTuple):
    """``here`` as of a Finding, the words for it, what to mend first, and the step it is in."""

    here: bool | None
    words: str
    first: str = ""
    between: str = ""


def blame(name: str, patterns: Mapping[str, Pattern], evidence: Evidence) -> Blame:
    """Whose fault a gradient is; ``patterns`` are those of every wrong tensor.

    ``Evidence.incoming`` knows what arrived at a layer that was watched. Of others it is known from
    the layer's other gradients, which are made of the same delta, and from layers nearer to the
    output.
    """
    own, order = evidence.layers.get(name, ""), evidence.order
    arrived = None if evidence.incoming is None else evidence.incoming.get(own)
    beside = [n for n in order if n != name and evidence.layers.get(n, "") == own]
    before = [n for n in order[: order.index(name) if name in order else None]
              if n not in beside and not _siblings(n, name, evidence)]  # fmt: skip
    return (
        _by_its_layer(name, beside, arrived, patterns, evidence)
        or _by_those_before(name, before, arrived, patterns, evidence)
        or _by_the_loss(title(own), arrived, evidence)
    )


def _siblings(one: str, other: str, evidence: Evidence) -> bool:
    """Two arguments of one function: neither comes before the other."""
    return all(
        name.startswith("input") and evidence.layers.get(name) not in evidence.pre_activations
        for name in (one, other)
    )


def _by_its_layer(
    name: str, beside: list[str], arrived: bool | None,
    patterns: Mapping[str, Pattern], evidence: Evidence,
) -> Blame | None:  # fmt: skip
    """The layer's other gradients, or all gradients together, decide."""
    layer = title(evidence.layers.get(name))
    right = any(n not in patterns and bool(evidence.exact[n].any()) for n in beside)
    if arrived or (arrived is None and right):
        return Blame(True, f"what arrives at {layer} is right; the fault is in its own backward")
    told = [n for n in beside if n in patterns and patterns[n].kind not in VAGUE]
    if told and patterns[name].kind in VAGUE:
        return Blame(None, f"made of the same delta as {told[0]}: look at that first", told[0])
    if LOSS in evidence.exact and arrived is None and _throughout(patterns, evidence.order):
        words = f"every gradient is wrong in this way: look at {OF_THE_LOSS}"
        return Blame(False, words, OF_THE_LOSS)
    return None


def _by_those_before(
    name: str, before: list[str], arrived: bool | None,
    patterns: Mapping[str, Pattern], evidence: Evidence,
) -> Blame | None:  # fmt: skip
    """The gradients nearer to the output decide."""
    layer, pattern = title(evidence.layers.get(name)), patterns[name]
    wrong = [n for n in before if n in patterns]
    alike = [n for n in wrong if patterns[n].key == pattern.key and pattern.kind not in VAGUE]
    if wrong:
        at = title(evidence.layers.get((alike or wrong)[0]))
        if alike or arrived is False:
            words = f"what arrives at {layer} is wrong already: look at {at} first"
            return Blame(False, words, at)
        words = f"{at} differs as well and is nearer to the output: look at it first"
        return Blame(None, words, at)
    if before:
        step = f"the step from {title(evidence.layers.get(before[-1]))} to {layer}"
        words = f"everything nearer to the output agrees; the fault is in {step}"
        return Blame(arrived is None, words, step if pattern.kind in VAGUE else "", step)
    return None


def _by_the_loss(layer: str, arrived: bool | None, evidence: Evidence) -> Blame:
    """No gradient is nearer to the output."""
    if arrived is False:
        words = f"what arrives at {layer} is wrong already: look at {OF_THE_LOSS}"
        return Blame(False, words, OF_THE_LOSS)
    if LOSS not in evidence.exact:
        words = f"the output's gradient is given; the fault is in {layer} or behind it"
        return Blame(True, words)
    words = f"nothing nearer to the output is compared: it is {layer}'s fault, or {OF_THE_LOSS}"
    return Blame(None, words)


def _throughout(patterns: Mapping[str, Pattern], order: tuple[str, ...]) -> bool:
    """Whether all gradients are wrong, and in the same way that says something."""
    keys = {patterns[n].key if n in patterns else ("agrees", None) for n in order}
    return len(order) > 1 and len(keys) == 1 and next(iter(keys))[0] not in (*VAGUE, "agrees")
